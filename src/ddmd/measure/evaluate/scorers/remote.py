"""Scorers that need old versions of packages: each in an environment of its own, spoken to by JSON lines (see adapters/protocol.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import InputError
from ....files import read_object, write_json
from ....teachers.builtin import cache_folder
from ..weights import sha256_of
from . import SCORERS, MissingScorer

if TYPE_CHECKING:
    from PIL import Image

ADAPTERS = Path(__file__).parent.parent / "adapters"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    # It imports diffusers and datasets, whose newer releases need a newer transformers and NumPy.
    "imagereward": (
        "image-reward==1.5",
        "transformers==4.36.2",
        "timm==0.6.13",
        "openai-clip==1.0.1",
        "diffusers==0.31.0",
        "datasets<3",
        "pyarrow<19",
        "pandas<3",
        "numpy<2",
        "setuptools<81",
    ),
    "hps3": ("hpsv3==1.0.0", "transformers==4.45.2", "matplotlib", "tensorboard", "pyyaml"),
    "mplug": (
        "modelscope==1.40.2",
        "transformers==4.36.2",
        "timm==0.6.13",
        "torch",
        "torchvision",
        "addict",
        "numpy<2",
        "setuptools<81",
    ),
}
DONE = "ddmd-scorer.json"


def environment(name: str) -> Path:
    """Where a scorer's environment lies."""
    return cache_folder() / "scorers" / name


def setup(name: str, say: Callable[[str], None], requirements: Sequence[str] | None = None) -> Path:
    """Make a scorer's environment; what is there already is left. Raises InputError where there is none to make, or pip fails."""
    if name not in REQUIREMENTS:
        raise InputError("NAME", repr(name), f"{', '.join(REQUIREMENTS)} have environments; other scorers run in ddmd's own")
    wanted = list(requirements if requirements is not None else REQUIREMENTS[name])
    folder = environment(name)
    marker = folder / DONE
    if marker.is_file() and read_object(marker).get("requirements") == wanted:
        say(f"{name}: ready in {folder}")
        return folder
    say(f"{name}: making {folder}")
    marker.unlink(missing_ok=True)  # not ready until all is in it
    venv.create(folder, with_pip=True)  # in what is there: somebody may have filled it by hand
    if wanted:
        pip = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", *wanted]
        if code := subprocess.run(pip, stdout=sys.stderr).returncode:  # its own progress is shown
            raise InputError(
                f"scorer {name}", f"pip's exit code {code}", f"mend what it says above, or fill {folder} by hand with {' '.join(wanted)}"
            )
    write_json(marker, {"requirements": wanted})
    return folder


def is_ready(name: str) -> bool:
    """Whether a scorer's environment is made."""
    return (environment(name) / DONE).is_file()


def require_environment(name: str) -> None:
    """Raise MissingScorer where a scorer's environment is not made."""
    if not is_ready(name):
        raise MissingScorer(f"scorer {name}", "no environment", f"make it: ddmd scorer setup {name}")


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


class RemoteScorer:
    """A rater or answerer in a process of its own; see `Rater` and `Answerer`."""

    def __init__(self, name: str, paths: Mapping[str, Path], command: Sequence[str] | None = None) -> None:
        if command is None:
            require_environment(name)
        self.name, self._paths = name, paths
        line = list(command or [str(_python(environment(name))), str(ADAPTERS / f"{name}.py")])
        plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=plain)
        self._told = self._ask({"open": {key: str(path) for key, path in paths.items()}}).get("identity", {})

    def rate(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """See `Rater`. Pictures go by their files where they have one."""
        with _on_disk(images) as files:
            return [float(value) for value in self._values({"images": files, "prompts": list(prompts)}, len(files))]

    def answer(self, image: Image.Image, questions: Sequence[str]) -> list[str]:
        """See `Answerer`."""
        with _on_disk([image]) as files:
            return [str(value) for value in self._values({"images": files, "questions": list(questions)}, len(questions))]

    def identity(self) -> dict[str, Any]:
        """See `Rater`."""
        return {"name": self.name, **self._told, "weights_sha256": sha256_of(self._paths[""]) if "" in self._paths else None}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _values(self, request: dict[str, Any], n: int) -> list[Any]:
        values = self._ask(request).get("values")
        if not isinstance(values, list) or len(values) != n:
            raise InputError(f"scorer {self.name}", f"{values!r} for {n} asked"[:200], "its adapter must give one value each")
        return values

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told below
        line = self._process.stdout.readline()
        try:
            reply = json.loads(line) if line else {"error": f"its process ended with code {self._process.wait()}"}
        except ValueError:
            reply = {"error": f"a reply that is not JSON, {line[:80]!r}"}
        if "error" in reply:
            self._process.kill()
            raise InputError(
                f"scorer {self.name}", reply["error"], "read its own messages above; `ddmd scorer list` names the files it needs"
            )
        return reply


class _on_disk:
    """Files of pictures: their own where they were read whole from one, else temporary ones."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = images

    def __enter__(self) -> list[str]:
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        files = []
        for i, image in enumerate(self.images):
            own = image.info.get("path")
            if own is None:
                own = str(Path(self._folder.name) / f"{i}.png")
                image.save(own)
            files.append(own)
        return files

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def statuses() -> list[list[str]]:
    """A table of all scorers: name, what it gives, whether it can run, and the files it needs."""
    rows = [["scorer", "gives", "environment", "files (give them as --scorer NAME=PATH)"]]
    for name, found in SCORERS.items():
        where = ("ready" if is_ready(name) else f"ddmd scorer setup {name}") if found.remote else "ddmd's own"
        files = "; ".join(f"{name}.{key}: {text}" if key else text for key, text in found.files.items())
        rows.append([name, found.title, where, files or "none: they come in a package"])
    return rows
