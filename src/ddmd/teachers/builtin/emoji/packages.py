"""Emoji as they are published: npm packages by name and version, read without unpacking, checked against a pinned digest."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ....errors import InputError

FETCH_SECONDS = 300  # for one package
LARGEST = 300 * 2**20  # bytes of one package once unpacked; none of ours comes near


@dataclass(frozen=True)
class Package:
    """One npm package: what of it is read, and the digest of exactly that."""

    name: str
    version: str
    licence: str
    credit: str
    digest: str  # sha256 over the names and bytes of the files read, in order of name
    reads: str = r"(icons|chars)\.json"  # which files, by path within the package

    def wanted(self, path: str) -> bool:
        """Whether a file of the package is read."""
        return re.fullmatch(self.reads, path) is not None


NOTO = Package(
    "@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google", "baa899da6c05225bc00c7208da00c1dc6786c4d08019d5552192fa18b071e8bd"
)
FLUENT = Package(
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "MIT",
    "Fluent Emoji, Microsoft",
    "52cf96a6e563b99cbd9f7e8614b74f36de0d886b96503677ab86274080d6073c",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "MIT",
    "Fluent Emoji Flat, Microsoft",
    "f304dd80644217538e1c78b672f929644c1821ad1ab5efe9f06dedab84600c62",
)
TWEMOJI = Package(
    "@twemoji/svg",
    "15.0.0",
    "CC-BY-4.0",
    "Twemoji, Twitter and contributors",
    "791ac8f21f4401b6050a74a63ee45ca5e3c2c945c264ab62552f18cd7bb2cbac",
    r"[^/]+\.svg",
)
OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "CC-BY-SA-4.0",
    "OpenMoji, HfG Schwaebisch Gmuend",
    "d095f3250fa0939a090d13e346149f77e2fd66725e196f22270328ab9bec802c",
    r"color/svg/[^/]+\.svg",
)
WORDS = Package(
    "emojibase-data",
    "17.0.0",
    "MIT",
    "Emojibase, names and keywords from Unicode CLDR",
    "9b5a91b62e0a55ed641cdd6ea181fa84a12c55c39c9bc161b255f2f9f4e5193a",
    r"en/data\.json",
)
PACKAGES = (NOTO, FLUENT, FLUENT_FLAT, TWEMOJI, OPENMOJI, WORDS)


def read_package(package: Package, source: Path | None, say: Callable[[str], None]) -> dict[str, bytes]:
    """The files of a package that are read, by path.

    From the registry (by the npm client), or from a folder of `npm pack` archives or a node_modules folder.
    Raises InputError when it cannot be had, or is not, byte for byte, the version that ddmd was made with.
    """
    if source is None:
        say(f"fetching {package.name} {package.version}")
        with tempfile.TemporaryDirectory() as folder:
            files = _read_archive(package, _pack(package, Path(folder)))
    else:
        files = _read_folder(package, source)
    found = digest_of(files)
    if found != package.digest:
        raise InputError(
            f"{package.name} {package.version}", f"contents with digest {found[:16]}, not {package.digest[:16]}",
            "it is not the package that ddmd was made with: fetch it again, or give that version with --from",
        )  # fmt: skip
    return files


def digest_of(files: dict[str, bytes]) -> str:
    """One sha256 over names and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _pack(package: Package, folder: Path) -> Path:
    client = shutil.which("npm")
    if client is None:
        raise InputError("npm", "no such command", "install Node.js, or give a folder that holds the packages with --from")
    command = [client, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), f"{package.name}@{package.version}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(package.name, f"no answer in {FETCH_SECONDS} s", "look at the network, or give a folder with --from") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        reason = " ".join((done.stderr or done.stdout).split())[-160:] or "no archive"
        raise InputError(f"{package.name}@{package.version}", reason, "look at the network, or give a folder that holds it with --from")
    return archives[0]


def _read_folder(package: Package, source: Path) -> dict[str, bytes]:
    archive = source / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if archive.is_file():
        return _read_archive(package, archive)
    folder = source / package.name
    if not folder.is_dir():
        raise InputError(str(source), f"neither {archive.name} nor {package.name}/", "put the npm package there, packed or unpacked")
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if package.wanted(name)}


def _read_archive(package: Package, path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if not member.isfile() or not package.wanted(name):
                    continue
                size += member.size
                if size > LARGEST:
                    raise InputError(str(path), f"more than {LARGEST >> 20} MiB", "this is not the package that it is named after")
                content = archive.extractfile(member)
                assert content is not None
                files[name] = content.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise InputError(str(path), f"an archive that cannot be read ({type(error).__name__})", "fetch it again") from error
    return files
