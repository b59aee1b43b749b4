"""Scopes: create, delete, list."""

from __future__ import annotations

from anabranch_events.domain import ScopeCreated, ScopeDeleted, ScopeDeletionStarted
from anabranch_wire.names import INTERNAL_SCOPE

from anabranch_controller.api import CreateScopeOutcome, DeleteScopeOutcome, Page
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import Handlers, is_scope_name, page, require
from anabranch_controller.keys import ScopeKey


class ScopeHandlers(Handlers):
    async def create_scope(self, scope: str) -> CreateScopeOutcome:
        require("scope", scope)
        if not is_scope_name(scope):
            return "INVALID_SCOPE_NAME"
        if scope == INTERNAL_SCOPE:
            return "SCOPE_EXISTS"
        ctx = self._ctx

        def decide() -> Write | None:
            if self._scope(scope) is not None:
                return None
            return write(ScopeCreated(scope, ctx.new_id().hex, ctx.clock.now_ms()))

        result = await ctx.log.change(ScopeKey(scope).subject, decide)
        return "SUCCESS" if isinstance(result, Written) else "SCOPE_EXISTS"

    async def delete_scope(self, scope: str) -> DeleteScopeOutcome:
        require("scope", scope)
        if not is_scope_name(scope):
            return "SCOPE_NOT_FOUND"
        if scope == INTERNAL_SCOPE:
            return "SCOPE_NOT_EMPTY"

        def decide() -> Write | DeleteScopeOutcome:
            found = self._scope(scope)
            if found is None:
                return "SCOPE_NOT_FOUND"
            return write(ScopeDeleted()) if found.is_empty else "SCOPE_NOT_EMPTY"

        result: Written | DeleteScopeOutcome = await self._ctx.log.change(
            ScopeKey(scope).subject, decide
        )
        return "SUCCESS" if isinstance(result, Written) else result

    async def delete_scope_recursive(self, scope: str) -> DeleteScopeOutcome:
        require("scope", scope)
        if scope == INTERNAL_SCOPE:
            return "FAILURE"
        if not is_scope_name(scope):
            return "SUCCESS"

        def decide() -> Write | None:
            found = self._scope(scope)
            startable = found is not None and found.stage == "active"
            return write(ScopeDeletionStarted()) if startable else None

        key = ScopeKey(scope)
        await self._ctx.log.change(key.subject, decide)
        started = self._scope(scope)
        if started is None:
            return "SUCCESS"  # Missing is gone: a repeated call must not fail.

        def gone() -> bool | None:
            now = self._scope(scope)
            return True if now is None or now.incarnation != started.incarnation else None

        await self._ctx.until(key.subject, gone, what=f"the deletion of scope {scope}")
        return "SUCCESS"

    async def scope_exists(self, scope: str) -> bool:
        require("scope", scope)
        return scope == INTERNAL_SCOPE or await self._loaded_scope(scope) is not None

    async def list_scopes(self, token: str) -> Page:
        await self._ctx.log.load_all()
        names = [name for name, scope in self._ctx.projection.scopes.items() if scope.exists]
        return page([*names, INTERNAL_SCOPE], token)
