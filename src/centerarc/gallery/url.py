"""Where a gallery is in a PostgreSQL database: a URL, read, and shown without its password."""

import re
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict

# The gallery of a URL that names none.
DEFAULT = "centerarc"
_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_SECRET = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key"})
# Seconds that a server may take to answer, unless the URL says how many.
_ANSWER = "10"


class GalleryUrl(NamedTuple):
    """A place such as `postgresql://user@host/database?gallery=people`.

    Args:
        connection: What to connect with, by the names of PostgreSQL's library.
        gallery: The name of the gallery, which is that of its schema.
        shown: The URL without a password, for messages.
    """

    connection: dict[str, Any]
    gallery: str
    shown: str

    @classmethod
    def of(cls, url: str) -> "GalleryUrl":
        """Reads a URL.

        Raises:
            ValueError: If it is none, or the name of the gallery cannot be one.
        """
        head, _, query = url.rpartition("?") if "?" in url else (url, "", "")
        options = [one for one in query.split("&") if one]
        named = [one for one in options if one.startswith("gallery=")]
        rest = "&".join(one for one in options if one not in named)
        gallery = unquote(named[-1].removeprefix("gallery=")) if named else DEFAULT
        if not _NAME.fullmatch(gallery):
            raise ValueError(
                "gallery must be a name of small letters, digits and _ that starts with no digit "
                f"and not with pg_, got {gallery!r}"
            )
        connection: dict[str, Any] = {}
        with suppress(psycopg.ProgrammingError):  # whose message may quote a part of a password
            connection = {"dbname": "", **conninfo_to_dict(f"{head}?{rest}" if rest else head)}
        # So may host, port and database, if it has special characters.
        where = f"{connection.get('host', '')}{connection.get('dbname', '@')}"
        if "@" in where or set(connection.get("port", "")) - set("0123456789,"):
            raise ValueError(
                "gallery must be a URL such as postgresql://user@host/database?gallery=people, got "
                "another one; if it has a password with special characters, write those as %XX, or "
                "leave the password to ~/.pgpass or PGPASSWORD"
            )
        shown = _shown(connection, gallery)
        if not connection["dbname"]:
            del connection["dbname"]  # then it comes from the environment
        connection.setdefault("connect_timeout", _ANSWER)
        connection.setdefault("fallback_application_name", "centerarc")
        return cls(connection, gallery, shown)


def _shown(connection: dict[str, Any], gallery: str) -> str:
    left = {key: str(value) for key, value in connection.items() if key not in _SECRET}
    user, database = left.pop("user", ""), left.pop("dbname", "")
    where = quote(user) + "@" if user else ""
    if not left.get("host", "").startswith("/"):  # a folder of sockets stays among the options
        hosts = [f"[{one}]" if ":" in one else one for one in left.pop("host", "").split(",")]
        ports = [f":{one}" if one else "" for one in left.pop("port", "").split(",")]
        ports = ports * len(hosts) if len(ports) == 1 else ports
        where += ",".join(host + port for host, port in zip(hosts, ports, strict=False))
    options = [f"{key}={quote(value, safe='/,:')}" for key, value in left.items()]
    return f"postgresql://{where}/{quote(database)}?{'&'.join([*options, f'gallery={gallery}'])}"
