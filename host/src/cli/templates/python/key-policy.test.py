import unittest

from larder_plugin import Denied
from larder_plugin.testing import decide
from plugin import derive


class Tenants(unittest.TestCase):
    def test_two_tenants_do_not_share_a_value(self):
        def parts(tenant):
            return decide(derive, path={"key": "42"}, headers={"x-tenant": tenant}).parts

        self.assertEqual(parts("a"), [("tenant", "a"), ("key", "42")])
        self.assertNotEqual(parts("a"), parts("b"))

    def test_a_request_without_a_tenant_is_rejected(self):
        with self.assertRaises(Denied):
            decide(derive, path={"key": "42"})


if __name__ == "__main__":
    unittest.main()
