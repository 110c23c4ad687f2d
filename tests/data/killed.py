"""The beginning of a script that is killed behind its n-th write: ``sys.argv[3]``, 0 for never; ``done`` counts."""

KILLED = """
import os, pathlib, signal, sys
import numpy
import ropewalk

fatal, done = int(sys.argv[3]), 0

def counted(call):
    def wrapped(*some, **more):
        global done
        found = call(*some, **more)
        done += 1
        if done == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return wrapped

for place, name in ((os, "replace"), (os, "link"), (numpy, "save"), (pathlib.Path, "unlink"), (pathlib.Path, "mkdir"),
                    (pathlib.Path, "write_text")):
    setattr(place, name, counted(getattr(place, name)))
"""

# By name: what a shard holds is one of several defaults.
SMALL_SHARDS = """
import functools
import ropewalk.data.making as making

making.tokenised = functools.partial(making.tokenised, shard=3000)
"""
