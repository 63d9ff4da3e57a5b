"""What a setting may be, where no program in a container refuses it in time, and that in words."""

from __future__ import annotations

import ipaddress
import re

from ops import dotenv
from ops.run import HERE, Stop

NUMBER = r"[1-9]\d{0,8}"
# The second is the same database, for migrations. Both may hold a password.
URLS = ("DATABASE_URL", "MIGRATION_DATABASE_URL")
# Of what the app asks of Postgres; and the seconds where one is empty, as in postgres/rights.
TIMEOUTS = {"STATEMENT_TIMEOUT": 60, "LOCK_TIMEOUT": 30, "IDLE_TRANSACTION_TIMEOUT": 60}
# traefik/settings has Traefik's.
ALLOWED = {
    **dict.fromkeys(("DEPLOY_TIMEOUT", "HOOK_TIMEOUT"), (NUMBER, "a whole number of seconds")),
    "HTTP_PORT": (r"[1-9]\d{0,4}", "the number of one port"),
    # Postgres counts milliseconds, in 31 bits.
    **dict.fromkeys(TIMEOUTS, (r"\d{0,6}", "a whole number of seconds, 0 for no limit")),
    "APP_ENTRYPOINT": ("keep|skip", "keep or skip"),
    "TMP_SIZE": (r"([1-9]\d{0,9}[kmgKMG]?)?", "a size like 64m"),
    "MIGRATE": (r"""(?s)([^'"\\]|\\.|'[^']*'|"([^"\\]|\\.)*")*""", "a command, each quote closed"),
    "MIGRATE_DEADLINE": (r"(\d{1,5}(\.\d+)?)?", "a number of seconds, a day at most"),
    # As runtime/settings.py has it.
    **dict.fromkeys(
        URLS,
        (
            r"(postgres(ql)?://([^@/]*@)?[^@/?#]*(/[^@?]*)?(\?.*)?)?",
            "a URL like postgresql://user:password@host:5432/name, with %40 for an @ in the password, %2F for a /",
        ),
    ),
}
# Traefik's own names begin with this, for what it asks an authority.
ACME = "TRAEFIK_CERTIFICATESRESOLVERS_ACME_ACME_"
# Let's Encrypt's profiles and the hours that their certificates last: https://letsencrypt.org/docs/profiles/
PROFILES = {"classic": 2160, "tlsserver": 1080, "shortlived": 160}


def check_values(environment: dict[str, str]) -> None:
    """Traefik's environment, as compose.yaml makes it, and what else is in ALLOWED. Raises Stop with 2."""
    traefiks = [line.split(maxsplit=3) for line in (HERE / "traefik/settings").read_text("utf-8").splitlines()]
    for setting, variable, pattern, words in [*([name, name, *ours] for name, ours in ALLOWED.items()), *traefiks]:
        if setting != "#" and not re.fullmatch(pattern, environment[variable]):
            raise Stop(f"{setting}={'…' if setting in URLS else environment[variable]} is wrong: {words}.", 2)
    for setting in ("TRUSTED_PROXIES", "PROXY_PROTOCOL", "ALLOW_FROM"):
        for network in filter(None, environment[setting].split(",")):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Stop(f"{setting} is wrong: {network} is neither an address nor a network.", 2) from None
    for paths, guard in (("BASIC_AUTH_PATHS", "BASIC_AUTH_FILE"), ("ALLOW_PATHS", "ALLOW_FROM")):
        if environment[paths] and not environment[guard]:
            raise Stop(f"{paths}={environment[paths]} guards nothing without {guard}.", 2)
    if any(re.fullmatch(r"[\d.]+", name) for name in environment["DOMAIN"].split(",")):
        raise Stop(f"DOMAIN={environment['DOMAIN']} is wrong: a name, no address. Not set, any address will do.", 2)
    if "*" in environment["DOMAIN"] and not environment["ACME_DNS"]:
        raise Stop(f"DOMAIN={environment['DOMAIN']} is wrong: a wildcard needs ACME_DNS.", 2)
    for name in filter(None, environment["OWN_CERTIFICATES"].split(",")):
        if name not in environment["DOMAIN"].split(","):
            raise Stop(f"OWN_CERTIFICATES is wrong: {name} is not among the names of DOMAIN.", 2)
    profile, hours = environment[f"{ACME}PROFILE"], int(environment[f"{ACME}CERTIFICATESDURATION"])
    if "letsencrypt.org" in environment[f"{ACME}CASERVER"] and hours > PROFILES.get(profile, hours):
        raise Stop(
            f"ACME_PROFILE={profile} makes certificates of {PROFILES[profile]} hours, and CERTIFICATE_HOURS={hours} "
            f"would have them renewed too late: set CERTIFICATE_HOURS={PROFILES[profile]}.",
            2,
        )


def refused(said: str) -> str:
    """What Compose said of a value that it does not take, with the settings that have it."""
    example = re.findall(r"^# ([A-Z]\w+)=", (HERE / ".env.example").read_text("utf-8"), re.MULTILINE)
    given = ((name, dotenv.chosen(name)) for name in example)
    # Compose has a name of its own for what it is, and compose.yaml puts a unit behind some.
    named = [
        name for name, value in given if value and re.search(rf"(?<![\w.]){re.escape(value)}(\.0)?s?(?![\w.])", said)
    ]
    return f"{' or '.join(named) or 'A setting'} is wrong: {said}"
