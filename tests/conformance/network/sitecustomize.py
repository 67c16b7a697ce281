"""There is no network for the scripts: an address that the runner has a file for is that file, all others are refused.

What ``CONFORMANCE_HIDDEN`` names cannot be imported. This folder stands in the ``PYTHONPATH`` of the scripts.
``CONFORMANCE_NETWORK`` names a JSON file: address -> path.
"""

import json
import os
import pathlib
import socket
import sys
import urllib.request

_files = json.loads(pathlib.Path(os.environ["CONFORMANCE_NETWORK"]).read_text())
_connect, _open = socket.socket.connect, urllib.request.OpenerDirector.open


def _refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "localhost", "::1")):
        raise OSError(f"there is no network here: {address}")
    return _connect(self, address)


def _mapped(self, fullurl, *args, **kwargs):
    url = fullurl if isinstance(fullurl, str) else fullurl.full_url
    if url in _files:
        fullurl = pathlib.Path(_files[url]).as_uri()
    return _open(self, fullurl, *args, **kwargs)


socket.socket.connect = _refuse
urllib.request.OpenerDirector.open = _mapped

for _name in os.environ.get("CONFORMANCE_HIDDEN", "").split():
    sys.modules[_name] = None
