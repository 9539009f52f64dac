"""The simulated upstream of the tests."""

from simulator import SimulatorProcess


class UpstreamProcess(SimulatorProcess):
    """`SimulatorProcess`, with what only tests ask it."""

    def last_seq(self) -> int:
        """The number of the newest request, 0 when there is none."""
        return int(self._call("GET", f"tally?since={10**9}")["count"])
