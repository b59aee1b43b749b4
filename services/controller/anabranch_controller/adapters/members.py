"""The live controllers, as the registry knows them."""

from __future__ import annotations

from anabranch_kit.ports.registry import Member, Registry, RegistryUnavailable

from anabranch_controller.api import Endpoint


class RegistryMembers:
    """ControllerMembers, and the addresses that clients are told. `myself` is this instance."""

    def __init__(self, registry: Registry, myself: Member) -> None:
        self._registry, self.myself = registry, myself

    async def live_instances(self) -> frozenset[str] | None:
        try:
            members = await self._registry.members("controller")
        except RegistryUnavailable:
            return None
        # A wiped registry does not know this instance either for a moment: nobody can say.
        incarnations = frozenset(member.incarnation for member in members)
        return incarnations if self.myself.incarnation in incarnations else None

    async def endpoints(self) -> list[Endpoint]:
        """Where controllers can be reached; this one when nobody else is known."""
        try:
            members = await self._registry.members("controller")
        except RegistryUnavailable:
            members = []
        found = sorted({Endpoint(member.host, member.port) for member in members})
        return found or [Endpoint(self.myself.host, self.myself.port)]
