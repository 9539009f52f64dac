"""The bundled upstream: plays OhMyGPT for the demo, the tests and the benchmark. See README.md."""

from simulator.process import SimulatorProcess
from simulator.runner import Simulator
from simulator.script import At, Close, Data, End, Head, Raw, Reset, Script, Sleep, Stall, Step, Wait
from simulator.tally import Entry, Seen, Tally
from simulator.tokens import Tokens

__all__ = [
    "At",
    "Close",
    "Data",
    "End",
    "Entry",
    "Head",
    "Raw",
    "Reset",
    "Script",
    "Seen",
    "Simulator",
    "SimulatorProcess",
    "Sleep",
    "Stall",
    "Step",
    "Tally",
    "Tokens",
    "Wait",
]
