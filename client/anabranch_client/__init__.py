"""The asyncio client of Anabranch (reserved: no code yet)."""
