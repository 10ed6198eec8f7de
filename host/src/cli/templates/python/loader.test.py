import unittest

from larder_plugin.testing import ask, json_of
from plugin import load


class Greetings(unittest.TestCase):
    def test_greets_the_key(self):
        self.assertEqual(json_of(ask(load, key="42")), {"message": "Hello, 42"})

    def test_greets_as_the_settings_say(self):
        outcome = ask(load, key="42", settings={"greeting": "Ahoy"})
        self.assertEqual(json_of(outcome), {"message": "Ahoy, 42"})


if __name__ == "__main__":
    unittest.main()
