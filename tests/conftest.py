import os
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are of the CPU, wherever they run

import model  # noqa: F401  before any test imports mindspore: without the oneDNN setting it is 40 to 80 times slower

# Graphs compiled by tests stay out of the user's cache; tests and the processes they start share this one.
_cache = tempfile.TemporaryDirectory(prefix="kinetics-r2plus1d-")
os.environ["XDG_CACHE_HOME"] = _cache.name
