"""Compiles the allocator's replay when memplanner is installed; without a C compiler, Python does the same, slower."""

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("memplanner", "allocator")
SOURCE = FOLDER / "allocator.c"
LIBRARY = FOLDER / "_allocator.so"
FLAGS = ("-O3", "-std=c99", "-shared", "-fPIC")


class CompileReplay(BuildHookInterface[Any]):
    """The wheel's hook. An editable installation has the library beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel."""
        root = Path(self.root)
        if version == "editable":
            (root / LIBRARY).unlink(missing_ok=True)
            self._compile(root / SOURCE, root / LIBRARY)
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="memplanner-")
        library = Path(self._scratch.name) / LIBRARY.name
        if self._compile(root / SOURCE, library):
            build_data["force_include"][str(library)] = LIBRARY.as_posix()
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"  # no part of it knows Python's own interface

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        if version != "editable":
            self._scratch.cleanup()

    def _compile(self, source: Path, library: Path) -> bool:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        try:
            done = subprocess.run(
                [*compiler, *FLAGS, str(source), "-o", str(library)], capture_output=True, text=True, check=False
            )
            said = "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
        except OSError as error:
            said = str(error)
        if said:
            self.app.display_warning(f"predictions will be slower: the allocator's replay was not compiled: {said}")
        return not said
