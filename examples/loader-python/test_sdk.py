"""What the SDK promises of one load, where the example itself does not show it."""

import datetime
import unittest
from dataclasses import dataclass, field

from larder_plugin import Context, InvalidRequest, found, loader
from larder_plugin.outcomes import Found, Missing, outcome_of, to_json
from larder_plugin.testing import ask, json_of


@dataclass
class Asked:
    key: str
    limit: int = 3
    tags: list[str] = field(default_factory=list)


@loader(name="gathered")
async def gathered(asked: Asked, ctx: Context):
    return {"asked": asked, "parts": ctx.parts, "route": ctx.route}


@loader(name="plain")
def plain(key: str):
    return {"key": key}


@loader(name="handed-on")
def handed_on(key: str, *, ctx: Context):
    async def wait():
        return [key, ctx.deadline_ms, ctx.known]

    return wait()


class Loads(unittest.TestCase):
    def test_a_name_that_repeats_is_a_list_or_its_first_part(self):
        told = json_of(ask(gathered, key=["a", "b"], limit="7", tags=["x", "y"]))
        self.assertEqual(told["asked"], {"key": "a", "limit": 7, "tags": ["x", "y"]})
        self.assertEqual(told["parts"], [["key", "a"], ["key", "b"], ["limit", "7"], ["tags", "x"], ["tags", "y"]])
        self.assertEqual(told["route"], "/{key}")

    def test_a_part_that_is_not_there_has_its_default_or_is_asked_for(self):
        self.assertEqual(json_of(ask(gathered, key=""))["asked"], {"key": "", "limit": 3, "tags": []})
        with self.assertRaises(InvalidRequest) as raised:
            ask(gathered, limit="7")
        self.assertEqual(raised.exception.code, "parameter-missing")
        with self.assertRaises(InvalidRequest) as raised:
            ask(gathered, key="a", limit="many")
        self.assertEqual(raised.exception.code, "parameter-invalid")

    def test_a_function_that_is_not_async_gives_a_value_or_what_is_to_be_awaited(self):
        self.assertEqual(json_of(ask(plain, key="a")), {"key": "a"})
        self.assertEqual(json_of(ask(handed_on, key="a")), ["a", 2000, None])


class Values(unittest.TestCase):
    def test_a_plain_value_is_what_found_makes_of_it(self):
        for value in ({"a": "é"}, ["x"], "text", 1.5, True, b"bytes"):
            self.assertEqual(outcome_of(value), found(value))
        self.assertEqual(outcome_of(None), Missing(None, []))
        self.assertEqual(outcome_of(b"x"), Found(b"x", "application/octet-stream", None, {}, None, [], None))

    def test_a_value_that_has_no_json_form_leaves_nothing_behind(self):
        within: list = []
        within.append(within)
        for _ in range(2):
            with self.assertRaisesRegex(ValueError, "Circular"):
                to_json({"a": within})
        with self.assertRaisesRegex(ValueError, "JSON compliant"):
            to_json([float("nan")])
        with self.assertRaisesRegex(TypeError, "no JSON form"):
            to_json([within[:0], object()])
        within[:] = [1]
        self.assertEqual(to_json([within, within]), b"[[1],[1]]")

    def test_json_within_json_is_text(self):
        class Day(datetime.date):
            def isoformat(self):
                return to_json([self.year]).decode()

        day = Day(2024, 2, 29)
        self.assertEqual(to_json({"day": day, "days": [day]}), b'{"day":"[2024]","days":["[2024]"]}')


if __name__ == "__main__":
    unittest.main()
