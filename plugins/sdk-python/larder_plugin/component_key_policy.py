"""What a key policy's component exports: the author's plugin.py, in the contract's words. Loads in a component only."""

from typing import Any

from wit_world import exports
from wit_world.exports import key_policy as policies
from wit_world.exports.metadata import Description

from . import component_host as contract
from .context import Response
from .failures import Internal, failure_of
from .requests import Pairs, Request


class Host:
    """The host of a key policy: nothing that could tell one call from another."""

    settings = staticmethod(contract.settings_text)
    log = staticmethod(contract.say)

    def secret(self, name: str) -> str:
        raise Internal("policy-has-no-secrets", f"a key policy has no secrets, and `{name}` is asked for")

    async def fetch(self, *arguments: Any) -> Response:
        raise Internal("policy-has-no-network", "a key policy only computes")


host = Host()
plugin = contract.the_plugin("key-policy", "key_policy")


class KeyPolicy(exports.KeyPolicy):
    def derive(self, request: policies.Request) -> policies.Decision:
        asked = Request(
            request.method, request.route, pairs(request.path), pairs(request.query), pairs(request.headers)
        )
        try:
            decision = plugin.derive(asked, host)
        except Exception as error:
            return policies.Decision_Reject(contract.failure(failure_of(error, contract.say)))
        derived = contract.derivation(decision)
        return policies.Decision_Cache(derived) if decision.cached else policies.Decision_Bypass(derived)


def pairs(params: list[Any]) -> Pairs:
    return Pairs((param.name, param.value) for param in params)


class Metadata(exports.Metadata):
    def describe(self) -> Description:
        return Description(plugin.name, plugin.version, plugin.cache_version, plugin.descriptor())


contract.settle()
