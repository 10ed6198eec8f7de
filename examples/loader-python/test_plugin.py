import json
import unittest

from larder_plugin import Internal, InvalidRequest, RateLimited, Validator
from larder_plugin.declare import plugin_of
from larder_plugin.outcomes import Missing, NotModified
from larder_plugin.testing import answer, ask, json_of
from plugin import load

ORIGIN = {"origin": "http://stations.test"}
OSLO = {"http://stations.test/oslo": answer({"name": "Oslo", "celsius": 21.54}, etag='"1"')}


class Stations(unittest.TestCase):
    def test_a_reading_is_typed_tagged_and_has_the_source_s_validator(self):
        outcome = ask(load, key="oslo", settings=ORIGIN, answers=OSLO)
        self.assertEqual(json_of(outcome), {"station": "Oslo", "temperature": 21.5, "unit": "celsius"})
        self.assertEqual((outcome.ttl_ms, outcome.tags, outcome.validator.etag), (60_000, ["station:oslo"], '"1"'))

    def test_parameters_are_of_their_types(self):
        outcome = ask(load, key="oslo", unit="fahrenheit", digits="0", settings=ORIGIN, answers=OSLO)
        self.assertEqual(json_of(outcome)["temperature"], 71)
        for wrong in ({"unit": "kelvin"}, {"digits": "many"}):
            with self.assertRaises(InvalidRequest):
                ask(load, key="oslo", settings=ORIGIN, answers=OSLO, **wrong)

    def test_what_the_station_says_is_an_absence_a_renewal_or_a_failure(self):
        def asked(status, known=None):
            there = {"http://stations.test/x": answer(b"", status=status)}
            return ask(load, key="x", settings=ORIGIN, answers=there, known=known)

        self.assertIsInstance(asked(404), Missing)
        self.assertIsInstance(asked(304, known=Validator(etag='"1"')), NotModified)
        with self.assertRaises(RateLimited) as raised:
            asked(429)
        self.assertEqual(raised.exception.retry_after, 10)

    def test_a_secret_that_is_not_there_is_named(self):
        with self.assertRaisesRegex(Internal, "token"):
            ask(load, key="oslo", settings=ORIGIN | {"authenticated": True}, answers=OSLO)

    def test_the_descriptor_holds_what_the_host_checks_by(self):
        told = json.loads(plugin_of(load).descriptor())
        parameters = {each["name"]: each for each in told["parameters"]}
        self.assertEqual([each["required"] for each in told["parameters"]], [True, False, False])
        self.assertEqual(parameters["unit"]["schema"], {"enum": ["celsius", "fahrenheit"], "default": "celsius"})
        self.assertEqual(parameters["digits"]["schema"], {"type": "integer", "minimum": 0, "maximum": 6, "default": 1})
        self.assertEqual(told["settings"]["required"], ["origin"])
        self.assertEqual(told["response"]["schema"]["properties"]["temperature"], {"type": "number"})


if __name__ == "__main__":
    unittest.main()
