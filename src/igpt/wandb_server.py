"""Whether W&B's server can be used from this machine."""

from __future__ import annotations

import netrc
import os
import ssl
import urllib.request
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

from igpt.files import expand_user

NO_KEY = "no API key is set (`wandb login` sets one)"


def offline_reason(timeout: float = 10.0) -> str | None:
    """Why W&B cannot be used from here, or None if it can. Waits at most `timeout` seconds for an answer."""
    url = _url()
    host = urlparse(url).hostname or url
    if not has_key():
        return NO_KEY
    try:
        urllib.request.urlopen(url, timeout=timeout).close()  # through a proxy, if the environment names one
    except HTTPError:
        return None  # it answers
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else f"{host} cannot be reached"
    except (OSError, ValueError, HTTPException):
        return f"{host} cannot be reached"
    return None


def has_key() -> bool:
    """Whether there is an API key; without one, W&B's library would ask for it on the console."""
    url = _url()
    return bool(os.environ.get("WANDB_API_KEY")) or _has_netrc_entry(urlparse(url).hostname or url)


def _url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _has_netrc_entry(host: str) -> bool:
    try:
        file = os.environ.get("NETRC") or expand_user("~/.netrc")
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
