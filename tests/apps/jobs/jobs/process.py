import asyncio
import contextlib
import signal


class Stopping(asyncio.Event):
    """Set by SIGTERM: what is under way is finished first."""

    def __init__(self) -> None:
        super().__init__()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.set)

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until it is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), seconds)
