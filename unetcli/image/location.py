"""Where a store lies: on this machine, in a bucket of S3, or on a web server.

A local place is a `pathlib.Path`. A remote one is a `RemotePath`, which has the few methods of a path that the
image layer uses, so that no other module asks which of them it holds. `obstore` speaks to the servers, and tries
again, ever later, what fails on the way.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from unetcli.atomic import write_atomically
from unetcli.errors import ConfigError, InputError, is_disk_full

if TYPE_CHECKING:
    from obstore.store import HTTPStore, S3Store
    from zarr.storage import ObjectStore, StorePath

T = TypeVar("T")
ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
"""Metadata of a Zarr group or array, of any format."""
HOST = re.compile(r"([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?")
RETRY: dict[str, Any] = {
    "max_retries": 7,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=3), "base": 3},
    "retry_timeout": timedelta(minutes=2),
}
"""About ten seconds in all: long enough for a busy server, short enough for a wrong address."""
TIMEOUT = timedelta(minutes=2)
"""Of one request: the largest shards take a while on a slow line."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
)
"""Variables that say where credentials come from. Without one of them they would be looked for at an address that
only exists in a cloud: minutes, until that fails."""
GIVE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket AWS_SKIP_SIGNATURE=true "
    "(and AWS_REGION or AWS_ENDPOINT_URL, where they are needed)"
)


class UnseenError(InputError):
    """Nothing is at a place, or nothing that one may see: some servers do not tell which."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object, or all objects below a prefix, on a server.

    Parameters
    ----------
    scheme
        ``s3``, ``https`` or ``http``. Only the first can be listed and written to.
    host
        The bucket, or the name of the server.
    key
        Place in it, without slashes at its ends.
    """

    scheme: str
    host: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.key}"

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, key=f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return PurePosixPath(self.key).suffix

    @property
    def parents(self) -> list[RemotePath]:
        """What it lies in, the nearest first."""
        return [replace(self, key=str(key)) for key in PurePosixPath(self.key).parents]

    @property
    def is_bucket(self) -> bool:
        """Whether it can be listed and written to."""
        return self.scheme == "s3"

    def with_name(self, name: str) -> RemotePath:
        """Return its neighbour of another name."""
        return replace(self, key=str(PurePosixPath(self.key).with_name(name)))

    def resolve(self) -> RemotePath:
        """Return itself: there are no links."""
        return self

    def exists(self) -> bool:
        """Tell whether there is an object, or a folder of them."""
        return self.is_dir() or self.is_file()

    def is_file(self) -> bool:
        """Tell whether there is an object that one may see."""
        try:
            with reaching(self):
                self.client.head(self.key)
        except UnseenError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether objects lie below it; where they can not be listed, whether Zarr metadata does."""
        try:
            return self._listed(lambda client: any(batch for batch in client.list(self.key)))
        except UnseenError:
            return any((self / name).is_file() for name in ZARR_FILES)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield what lies directly in it."""
        found = self._listed(lambda client: client.list_with_delimiter(self.key))
        keys = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        yield from (replace(self, key=key) for key in sorted(keys) if key != self.key)

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield all objects below it whose name matches."""
        found = (self / name for name, _, _ in self.contents())
        yield from (path for path in found if fnmatch.fnmatchcase(path.name, pattern))

    def contents(self) -> list[tuple[str, int, str]]:
        """Return relative key, size and tag of all objects below it, sorted."""
        entries = self._listed(lambda client: [entry for batch in client.list(self.key) for entry in batch])
        return sorted((e["path"][len(self.key) + 1 :], e["size"], e["e_tag"] or "") for e in entries)

    def read_bytes(self) -> bytes:
        """Return what is in the object."""
        with reaching(self):
            return bytes(self.client.get(self.key).bytes())

    def read_text(self) -> str:
        """Return what is in the object, as text."""
        return self.read_bytes().decode()

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: folders are there when something lies in them."""

    def rmdir(self) -> None:
        """Do nothing: an empty folder is none."""

    def unlink(self, *, missing_ok: bool = False) -> None:  # noqa: ARG002 - servers do not say whether it was there
        """Remove the object."""
        with reaching(self):
            self.client.delete([self.key])

    @property
    def client(self) -> S3Store | HTTPStore:
        """What speaks to the server; its keys are those of the whole bucket, or host."""
        return _shared(self.scheme, self.host)

    def _listed(self, ask: Callable[[Any], T], tries_left: int = 7) -> T:
        """Ask what lies below it; again, when the answer breaks off, which the library leaves to us."""
        if not self.is_bucket:
            raise UnseenError(f"{self}: a web server does not tell what lies in a folder", fix="name a single store")
        with reaching(self):
            try:
                return ask(self.client)
            except Exception as error:
                if tries_left == 0 or "Interrupted" not in str(error):
                    raise
        return self._listed(ask, tries_left - 1)


Location = Path | RemotePath
"""Where a store lies."""


def parse_location(text: str | Path) -> Location:
    """Return the place that a user means: a path, or ``s3://``, ``https://``, ``http://`` or ``file://`` and one.

    What is a path already, as the default of an option, stays one.

    Raises
    ------
    ConfigError
        If it is a URL of another kind.

    Examples
    --------
    >>> parse_location("file:///data/a.zarr"), str(parse_location("s3://bucket/a.zarr/"))
    (PosixPath('/data/a.zarr'), 's3://bucket/a.zarr')
    """
    if isinstance(text, Path):
        return text
    scheme, separator, rest = text.partition("://")
    if not text.strip():
        raise ConfigError("a path is empty; expected a file, a folder or a store", fix="is a shell variable not set?")
    if not separator:
        return Path(text) if Path(text).name else Path(text).resolve()
    if scheme.lower() == "file" and urlsplit(text).netloc in ("", "localhost"):
        return Path(unquote(urlsplit(text).path))
    host, _, key = rest.partition("/")
    is_web = scheme.lower() in ("https", "http")
    parts = [p for p in (unquote(key) if is_web else key).split("/") if p not in ("", ".")]
    known = is_web or scheme.lower() == "s3"
    if not known or not HOST.fullmatch(host.rpartition("@")[2]) or not parts or ".." in parts:
        raise ConfigError(f"{text}: expected s3://bucket/key, https://host/path or file:///path", fix="a local path")
    if "@" in host or (is_web and set("?#") & set(key)):
        raise ConfigError(
            f"{text}: expected an address without credentials and questions",
            fix="an address that anyone may read, or s3://bucket/key",
        )
    return RemotePath(scheme.lower(), host, "/".join(parts))


def local_path(text: str | Location) -> Path:
    """Return the local place that a user means, by its text or as a place.

    Raises
    ------
    ConfigError
        If it is remote.
    """
    place = parse_location(text) if isinstance(text, str) else text
    if isinstance(place, RemotePath):
        raise ConfigError(
            f"{place}: is remote; only OME-Zarr stores are read from and written to servers",
            fix="a local path; copy the file to this machine first, or the result from it afterwards",
        )
    return place


def require_local(place: Location) -> Path:
    """Return a place that holds a file, which is only read on this machine."""
    if isinstance(place, RemotePath):
        raise InputError(
            f"{place}: is not an OME-Zarr store; other files are only read from this machine",
            fix="copy it to this machine first",
        )
    return place


@contextmanager
def making(path: Location) -> Iterator[None]:
    """Say of an output that can not be begun which one it is; of a full disk the command line speaks."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{path}: can not be written ({error.strerror})") from error


def require_writable(place: Location) -> None:
    """Raise a `ConfigError` if nothing can be written to a place, whatever the rights."""
    if isinstance(place, RemotePath) and not place.is_bucket:
        raise ConfigError(f"{place}: web servers are only read from", fix="-o with a local path or s3://bucket/key")


def is_listable(place: Location) -> bool:
    """Tell whether one can learn what lies in a folder: a web server does not say."""
    return isinstance(place, Path) or place.is_bucket


def nothing_at(place: Location) -> InputError:
    """Return the error for a place where nothing is found."""
    if isinstance(place, RemotePath):
        return UnseenError(
            f"{place}: nothing readable is there",
            fix="check bucket, key and credentials" if place.is_bucket else "check the address",
        )
    return InputError(f"{place}: does not exist", fix="check the path")


def write(place: Location, content: str | bytes, *, is_first: bool = False) -> None:
    """Write a file, or an object, that is there whole or not at all; with `is_first` only if there is none yet."""
    if isinstance(place, Path):
        write_atomically(place, content, is_first=is_first)
    else:
        try:
            with reaching(place):
                _put(place, content.encode() if isinstance(content, str) else content, is_first=is_first)
        except UnseenError as error:
            message = f"{place}: can not be written; there is no such bucket, or no right to"
            raise InputError(message, fix=GIVE_CREDENTIALS) from error


def _put(place: RemotePath, content: bytes, *, is_first: bool) -> None:
    from obstore.exceptions import AlreadyExistsError

    with suppress(AlreadyExistsError):
        place.client.put(place.key, content, mode="create" if is_first else "overwrite")


def empty(folder: Location, *, but: str = "") -> None:
    """Remove all that lies in a folder, except what has a certain name; links are not followed."""
    if isinstance(folder, RemotePath):
        with reaching(folder):
            folder.client.delete([(folder / name).key for name, _, _ in folder.contents() if name != but])
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != but:
                path.unlink()


def zarr_path(place: Location, *, new: bool = False) -> Path | StorePath | ObjectStore[Any]:
    """Return a place as Zarr takes it, to open what is there or to make something new."""
    if isinstance(place, Path):
        return place
    from zarr.storage import ObjectStore, StorePath

    with reaching(place):
        if new:  # a store of its own, because Zarr makes a group of each folder between the root and what is new
            return ObjectStore(_connect(place.scheme, place.host, prefix=place.key))
        return StorePath(ObjectStore(place.client), place.key)


@contextmanager
def reaching(place: Location) -> Iterator[None]:
    """Turn what goes wrong on the way to a server into an `InputError`; leave alone what is wrong on a disk."""
    if isinstance(place, Path):
        yield
        return
    _require_library(place)
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        raise nothing_at(place) from error
    except exceptions.NotSupportedError as error:
        raise InputError(
            f"{place}: the server does not send parts of a file (HTTP Range), which are needed",
            fix="copy the store to this machine, or serve it otherwise",
        ) from error
    except exceptions.BaseError as error:
        reason = _reason(str(error))
        if "404" in reason:
            raise nothing_at(place) from error
        if "401" in reason or "403" in reason:
            raise UnseenError(f"{place}: access is denied", fix=GIVE_CREDENTIALS) from error
        raise InputError(
            f"{place}: can not be reached ({reason})",
            fix=f"check {'AWS_ENDPOINT_URL, AWS_REGION' if place.is_bucket else 'address'} and network; "
            "then the same command continues",
        ) from error


def _reason(text: str) -> str:
    """Find in a long report of an error what a person wants to know."""
    status = re.search(r"status code: (\d+ [A-Z][A-Za-z ]+)", text)
    cause = re.search(r'(?:message|error): "(.+?)"', text)
    if status:
        return f"the server answers {status[1]}"
    return cause[1] if cause else text.splitlines()[0].rpartition(": ")[2]


def _require_library(place: RemotePath) -> None:
    try:
        import obstore  # noqa: F401 - whether it is there
    except ImportError as error:
        raise InputError(
            f"{place}: remote stores need the package obstore", fix="pip install 'unetcli[remote]'"
        ) from error


def _connect(scheme: str, host: str, *, prefix: str | None = None) -> S3Store | HTTPStore:
    from obstore.store import HTTPStore, S3Store

    options: Any = {"client_options": {"allow_http": True, "timeout": TIMEOUT}, "retry_config": RETRY}
    if scheme != "s3":
        return HTTPStore(f"{scheme}://{host}", **options)
    if not any(name in os.environ for name in CREDENTIALS):
        raise InputError(f"s3://{host}: no credentials are given", fix=GIVE_CREDENTIALS)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        if name in os.environ and not re.match(rf"https?://{HOST.pattern}", os.environ[name]):
            raise ConfigError(f"{name}={os.environ[name]}: expected an address", fix=f"{name}=https://...")
    return S3Store(host, prefix=prefix, **options)


_shared = functools.cache(_connect)
