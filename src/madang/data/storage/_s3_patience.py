"""How long an S3 server may take, in the words of the two libraries that speak to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_NO_LIMIT = timedelta(days=1)
_SLOWEST_BYTES = 1 << 20
"""A second, of an upload that is one request."""


@dataclass(frozen=True)
class Patience:
    """When a request is given up, and how often it is sent again.

    A server that is started again refuses connections first and then answers with errors for some
    seconds; the retries outlast that. One that went away without a word (a machine that lost its
    power, a broken network) is noticed by its silence, and must be noticed soon enough that there
    is time for another try.

    Attributes:
        connect_seconds: Time for a connection to be made.
        silence_seconds: Time without a byte of the answer. An upload is answered at its end.
        retries: How often a request is sent again. One whose repetition could do harm, such as a
            create-only write, is not sent again after a silence.
        first_pause_seconds: The pause before the first of them.
        pause_growth: Each pause is at random up to this many times the one before.
        longest_pause_seconds: A pause is no longer than this.
        retry_seconds: Time since the first request after which it is not sent again.
    """

    connect_seconds: float = 5
    silence_seconds: float = 15
    retries: int = 7
    first_pause_seconds: float = 0.2
    pause_growth: float = 3
    longest_pause_seconds: float = 5
    retry_seconds: float = 60

    def for_upload(self, size_bytes: int) -> Patience:
        """With time for an upload of this size in one request."""
        return replace(self, silence_seconds=self.silence_seconds + size_bytes / _SLOWEST_BYTES)

    def client_options(self, *, allow_http: bool) -> ClientConfig:
        """For obstore's clients."""
        return {
            "allow_http": allow_http,
            "connect_timeout": timedelta(seconds=self.connect_seconds),
            "read_timeout": timedelta(seconds=self.silence_seconds),
            "timeout": _NO_LIMIT,  # a large object takes its time; only silence counts
        }

    def retry_config(self) -> RetryConfig:
        """For obstore's clients."""
        return {
            "max_retries": self.retries,
            "retry_timeout": timedelta(seconds=self.retry_seconds),
            "backoff": {
                "init_backoff": timedelta(seconds=self.first_pause_seconds),
                "base": self.pause_growth,
                "max_backoff": timedelta(seconds=self.longest_pause_seconds),
            },
        }

    def delta_options(self) -> dict[str, str]:
        """For the Delta library, which limits the whole answer; it asks for the rest of a long one."""
        return {
            "connect_timeout": f"{self.connect_seconds}s",
            "timeout": f"{self.silence_seconds}s",
            "max_retries": str(self.retries),
            "retry_timeout": f"{self.retry_seconds}s",
            "backoff_config.init_backoff": f"{round(self.first_pause_seconds * 1000)}ms",
            "backoff_config.base": str(self.pause_growth),
            "backoff_config.max_backoff": f"{self.longest_pause_seconds}s",
        }
