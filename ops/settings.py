"""The settings of the front door, which no program of ours reads: Traefik would only log a wrong one."""

from __future__ import annotations

import ipaddress
import re

from ops.run import Stop

HOST = r"(?!-)[a-z0-9-]+(\.[a-z0-9-]+)*"
NUMBER = r"[1-9]\d{0,8}"
# What a setting may be, and that in words.
ALLOWED = {
    "DOMAIN": (rf"{HOST}(,{HOST})*", "a host name in lower case, like app.example.com, or several with commas"),
    "ALIASES": (r"redirect|serve", "redirect or serve"),
    "ACME_EMAIL": (r"[^@\s,]+@[\w-]+(\.[\w-]+)+|", "an address like you@example.com, or nothing"),
    "ACME_CA": (r"https://\S+", "the https:// address of an ACME directory"),
    "ACME_PROFILE": (r"[\w.-]*", "a profile that the authority lists"),
    "CERTIFICATE_HOURS": (NUMBER, "a whole number of hours"),
    "CERTIFICATE_RETRY_SECONDS": (NUMBER, "a whole number of seconds"),
    "HEADER_LIMIT": (NUMBER, "a whole number of bytes"),
    "READ_TIMEOUT": (NUMBER, "a whole number of seconds"),
    "WRITE_TIMEOUT": (r"\d{1,9}", "a whole number of seconds; 0 is no limit"),
    "IN_FLIGHT_LIMIT": (NUMBER, "a whole number of requests"),
    "CLIENT_IN_FLIGHT_LIMIT": (NUMBER, "a whole number of requests"),
    "RATE_LIMIT": (rf"{NUMBER}|", "a whole number of requests a second, or nothing"),
}
# Where Traefik's environment has it under a name of Traefik's.
ACME = "TRAEFIK_CERTIFICATESRESOLVERS_ACME_ACME_"
ENTRY = "TRAEFIK_ENTRYPOINTS_WEBSECURE_"
NAMED = {
    "ACME_EMAIL": f"{ACME}EMAIL",
    "ACME_CA": f"{ACME}CASERVER",
    "ACME_PROFILE": f"{ACME}PROFILE",
    "CERTIFICATE_HOURS": f"{ACME}CERTIFICATESDURATION",
    "HEADER_LIMIT": f"{ENTRY}HTTP_MAXHEADERBYTES",
    "READ_TIMEOUT": f"{ENTRY}TRANSPORT_RESPONDINGTIMEOUTS_READTIMEOUT",
    "WRITE_TIMEOUT": f"{ENTRY}TRANSPORT_RESPONDINGTIMEOUTS_WRITETIMEOUT",
}
# Let's Encrypt's profiles and the hours that their certificates last: https://letsencrypt.org/docs/profiles/
PROFILES = {"classic": 2160, "tlsserver": 1080, "shortlived": 160}


def check_settings(environment: dict[str, str]) -> None:
    """Traefik's environment, as compose.yaml makes it. Raises Stop with 2 for the first wrong setting."""
    for setting, (pattern, allowed) in ALLOWED.items():
        value = environment[NAMED.get(setting, setting)]
        if not re.fullmatch(pattern, value):
            raise Stop(f"{setting}={value} is wrong: {allowed}.", 2)
    for network in filter(None, environment["TRUSTED_PROXIES"].split(",")):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise Stop(f"TRUSTED_PROXIES is wrong: {network} is neither an address nor a network.", 2) from None
    profile, hours = environment[f"{ACME}PROFILE"], int(environment[f"{ACME}CERTIFICATESDURATION"])
    if "letsencrypt.org" in environment[f"{ACME}CASERVER"] and hours > PROFILES.get(profile, hours):
        raise Stop(
            f"ACME_PROFILE={profile} makes certificates of {PROFILES[profile]} hours, and CERTIFICATE_HOURS={hours} "
            f"would have them renewed too late: set CERTIFICATE_HOURS={PROFILES[profile]}.",
            2,
        )
