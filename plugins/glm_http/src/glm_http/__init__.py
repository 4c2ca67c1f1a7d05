"""Share what every frontend that speaks HTTP needs; a library, not a plugin.

Where to look: `refusals` is how a request is turned away; `access` has the checks of keys, hosts and
origins; `paths` makes one path of the ways to write it; `gate` is the ASGI middleware that checks a request,
counts its body and reads nothing before that; `protocol` is HTTP as uvicorn speaks it, where that is
not enough; `connections` keeps the number of connections below the limit of open files; `server` binds a
port, serves, and stops without cutting anybody off; `logs` keeps a log that cannot be written from
stopping a server.
"""

__version__ = "0.1.0"
