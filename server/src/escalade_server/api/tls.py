"""TLS of the server, TLS 1.2 or later; certificates are renewed without a restart (P14, D19).

Every handshake looks whether the files changed. New ones are taken only if they fit together;
else the old ones go on serving, and that is told once.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

Told = Callable[[str], None]
"""Is told what became of new files: empty when they serve, else why they do not."""
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With ``client_ca`` every client must show a certificate of that authority."""

    certificate: str
    key: str
    client_ca: str | None = None


class TlsError(Exception):
    """The files cannot serve; the message says the mend."""


class Certificates:
    """The certificates of one server, watched."""

    def __init__(self, files: TlsFiles, told: Told) -> None:
        """Keep where they are; call inside the event loop, on which ``told`` is called."""
        self._files, self._told = files, told
        self._loop = asyncio.get_running_loop()
        self._stamp: _Stamp = ()
        self._refused: _Stamp = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files for the first time.

        Raises:
            TlsError: they are missing, or do not fit together.
        """
        try:
            self._stamp = self._look()
            first = self._read()
        except (OSError, ValueError) as error:
            raise TlsError(self._why(error)) from error
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._renewed,  # type: ignore[arg-type]  # None is documented, the stubs lack it
            require_client_authentication=self._files.client_ca is not None,
        )

    def _paths(self) -> list[Path]:
        files = self._files
        return [Path(name) for name in (files.certificate, files.key, files.client_ca) if name]

    def _look(self) -> _Stamp:
        found = [path.stat() for path in self._paths()]
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read all files, after a look at whether they fit together."""
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
        chain, key, *ca = [path.read_bytes() for path in self._paths()]
        return grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=ca[0] if ca else None
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Answer new certificates, or None to go on; called by gRPC for each handshake."""
        stamp: _Stamp = ()
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return None
            found = self._read()
            if self._look() != stamp:
                return None  # they are being written: the next handshake looks again
        except (OSError, ValueError) as error:
            if stamp != self._refused:
                self._refused = stamp
                self._tell(self._why(error))
            return None
        self._stamp = stamp
        self._tell("")
        return found

    def _tell(self, why: str) -> None:
        self._loop.call_soon_threadsafe(self._told, why)

    def _why(self, error: Exception) -> str:
        files = self._files
        reason = error.strerror if isinstance(error, OSError) else None
        return (
            f"{files.certificate} and {files.key} cannot serve TLS ({reason or error}): give a"
            " PEM chain and its own unencrypted key"
        )


def _no_password() -> str:
    """Refuse an encrypted key, instead of asking at a terminal."""
    raise ValueError("the key is encrypted")
