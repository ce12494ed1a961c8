"""What each CUDA kernel of a build takes of a device, as ptxas reported it while compiling.

python scripts/cuda_resources.py BUILD_DIR
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture; bytes but for the registers of a thread."""

    family: str
    symbol: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def name(self) -> str:
        """The kernel template's: what follows the name of the namespace in the symbol, with its length before it."""
        length, rest = re.match(r"_ZN11detent_cuda(\d+)(\w+)", self.symbol).groups()
        return rest[: int(length)]


def reports(build: Path) -> list[Path]:
    return sorted(build.glob("**/detent_kernels_cuda.dir/**/*.cu.o.ptxas"))


def kernels(build: Path) -> list[Kernel]:
    """Every kernel that stands in the reports of a build folder, in their order."""
    found = []
    for report in reports(build):
        family = report.name.removesuffix(".cu.o.ptxas")
        for entry in report.read_text().split("Compiling entry function ")[1:]:
            symbol, architecture = re.match(r"'(\S+)' for '(\S+)'", entry).groups()
            numbers = {
                what: int(number)
                for number, what in re.findall(
                    r"(\d+) (?:bytes )?(registers|smem|stack frame|spill stores|spill loads)", entry
                )
            }
            found.append(
                Kernel(
                    family,
                    symbol,
                    architecture,
                    numbers["registers"],
                    numbers.get("smem", 0),
                    numbers["stack frame"],
                    numbers["spill stores"],
                    numbers["spill loads"],
                )
            )
    return found


def readable(symbols: list[str]) -> list[str]:
    """The symbols as C++ writes them, without arguments; as they are where there is no c++filt."""
    if shutil.which("c++filt") is None:
        return symbols
    names = subprocess.run(["c++filt"], input="\n".join(symbols), text=True, capture_output=True, check=True).stdout
    return [re.sub(r"^void |detent_cuda::|\(.*", "", name) for name in names.splitlines()]


def table(found: list[Kernel]) -> str:
    rows = ["registers shared stack spills architecture kernel"]
    for kernel, name in zip(found, readable([kernel.symbol for kernel in found]), strict=True):
        spills = kernel.spill_stores + kernel.spill_loads
        rows.append(
            f"{kernel.registers:9} {kernel.shared:6} {kernel.stack:5} {spills:6} {kernel.architecture:12} "
            f"{kernel.family}: {name}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    listed = kernels(Path(sys.argv[1]))
    if not listed:
        sys.exit(f"{sys.argv[1]} holds no report of a CUDA kernel. Build the target detent_kernels_cuda there first.")
    print(table(listed))
