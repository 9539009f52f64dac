"""Sends one alert with apprise: a program of its own, run as `python -I send.py`, that knows nothing of Weir.

Importing apprise takes half a second of processor time and 40 MB, and what it does with a destination may
wait as long as that likes: in a process of its own neither is anything to requests, and it can be ended.
Standard input: `{"urls": […], "title": …, "body": …}`. Standard output: a line for each destination, in
their order, as soon as it is known: `sent`, or why not, in words that hold no secrets.
"""

import json
import logging
import os
import sys


def main() -> None:
    """Send what standard input says."""
    import apprise  # noqa: PLC0415  where it is missing, that is an answer

    logging.disable(logging.CRITICAL)  # what it logs has URLs in it, and those have passwords
    job = json.load(sys.stdin)
    for url in job["urls"]:
        try:
            destination = apprise.Apprise.instantiate(url)
            if destination is None:
                result = "it is no URL that apprise knows"
            else:
                is_sent = destination.notify(body=job["body"], title=job["title"], body_format="text")
                result = "sent" if is_sent else "it was not taken"
        except Exception as error:  # noqa: BLE001  the other destinations get it all the same
            result = f"it failed: {type(error).__name__}"
        sys.stdout.write(result + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  lives as long as the process
    main()
