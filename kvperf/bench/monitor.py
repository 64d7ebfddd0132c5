"""Clocks, power, temperature and slowdowns of a GPU through NVML. It reads; it never sets anything."""

from __future__ import annotations

from typing import Any

from kvperf.bench.rig import Conditions

# Clock event reasons that slow the SMs down: NVML's bits.
SLOWDOWNS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal", 0x40: "hardware thermal", 0x80: "power brake"}
SM, MEMORY, TEMPERATURE = 1, 2, 0


class Monitor:
    """NVML of one GPU. A question that this driver or card does not answer is None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer of one NVML call about this GPU."""
        try:
            return getattr(self._nvml, question)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def number(self, question: str, scale: float, *arguments: Any) -> float | None:
        answer = self.ask(question, *arguments)
        return None if answer is None else float(answer) * scale

    def driver(self) -> str | None:
        answer = self._nvml.nvmlSystemGetDriverVersion()
        return answer.decode() if isinstance(answer, bytes) else answer

    def mig(self) -> bool | None:
        """Whether the GPU is cut into instances."""
        answer = self.ask("nvmlDeviceGetMigMode")
        return None if answer is None else bool(answer[0])

    def power_cap_w(self) -> float | None:
        return self.number("nvmlDeviceGetEnforcedPowerLimit", 1e-3)

    def max_clock_hz(self, domain: int) -> float | None:
        return self.number("nvmlDeviceGetMaxClockInfo", 1e6, domain)

    def conditions(self) -> Conditions:
        """This moment."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Conditions(
            memory_clock_hz=self.number("nvmlDeviceGetClockInfo", 1e6, MEMORY),
            power_w=self.number("nvmlDeviceGetPowerUsage", 1e-3),
            temperature_c=self.number("nvmlDeviceGetTemperature", 1, TEMPERATURE),
            throttled=slowdown(bits) if bits is not None else None,
        )


def slowdown(bits: int) -> str | None:
    """What slows the SMs down, in words; None where nothing does."""
    return ", ".join(word for bit, word in SLOWDOWNS.items() if bits & bit) or None


def monitor(pci_bus_id: str) -> Monitor | None:
    """The monitor of a GPU; None where nvidia-ml-py or NVML is missing."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        return Monitor(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id.encode()))
    except Exception:  # a missing package, library or permission: all mean that nobody can be asked
        return None
