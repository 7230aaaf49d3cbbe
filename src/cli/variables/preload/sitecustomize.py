"""Lets aiohttp use the proxy, and certifi name the roots, of the environment; written by `lockgate exec`, and run at
each start of Python.

aiohttp reads HTTP_PROXY and its like only in `ClientSession(trust_env=True)`. Here the proxy becomes the default; a
session that says `trust_env=False` stays as it says. With the proxy, `trust_env=True` reads passwords from ~/.netrc:
sessions of the default do not.

certifi brings a list of roots, and reads no variable. Libraries that hand the file of `certifi.where()` to TLS would
refuse the gateway. Here it is the file in LOCKGATE_CA_BUNDLE, if that is set.

Nothing is imported before the program imports these libraries.

A sitecustomize of the user's own is run afterwards, as if this one were not there.
"""

import os
import sys


def _install():
    class ProxyOnly(int):
        """A true value of `trust_env` that is told from the user's own `True`."""

        def __repr__(self):
            return "True"

    proxy_only = ProxyOnly(1)

    def patch_aiohttp(client):
        session, request = client.ClientSession, client.ClientRequest
        defaults = session.__init__.__kwdefaults__
        if defaults.get("trust_env") is not False:
            return
        defaults["trust_env"] = proxy_only

        # Newer versions read ~/.netrc in the session, older ones in the request.
        read_netrc = getattr(session, "_get_netrc_auth", None)
        if read_netrc is not None:

            def _get_netrc_auth(self, host):
                return None if self._trust_env is proxy_only else read_netrc(self, host)

            session._get_netrc_auth = _get_netrc_auth

        update_auth = request.update_auth
        if "trust_env" in update_auth.__code__.co_varnames:

            def patched_update_auth(self, auth, trust_env=False):
                return update_auth(self, auth, trust_env is not proxy_only and trust_env)

            request.update_auth = patched_update_auth

    def patch_certifi(core):
        bundle = os.environ.get("LOCKGATE_CA_BUNDLE", "")
        if not os.access(bundle, os.R_OK):
            return

        def where():
            return bundle

        def contents():
            with open(bundle) as file:
                return file.read()

        core.where, core.contents = where, contents

    # The package `certifi` takes both functions from this module.
    patches = {"aiohttp.client": patch_aiohttp, "certifi.core": patch_certifi}

    class Loader(object):
        """Runs the module as its own loader does, and then its patch."""

        def __init__(self, loader):
            self.loader = loader

        def __getattr__(self, name):
            return getattr(self.loader, name)

        def create_module(self, spec):
            return self.loader.create_module(spec)

        def exec_module(self, module):
            self.loader.exec_module(module)
            module.__loader__ = module.__spec__.loader = self.loader
            try:
                patches[module.__name__](module)
            except Exception as error:
                # A version with another inside: the program must run all the same, and be told.
                text = "lockgate: this version of %s does not work with the gateway by default: %r\n"
                sys.stderr.write(text % (module.__name__, error))

    class Finder(object):
        """Finds a module that has a patch as the finders behind it do, and adds the patch to its loader."""

        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name not in patches:
                return None
            for finder in sys.meta_path:
                find_spec = None if finder is cls else getattr(finder, "find_spec", None)
                spec = find_spec and find_spec(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = Loader(spec.loader)
                    return spec
            return None

    sys.meta_path.insert(0, Finder)


def _run_users_own():
    """Imports the sitecustomize that this one stands before on the path."""
    here = __file__.rpartition("/")[0]
    sys.path[:] = [entry for entry in sys.path if entry != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        # The import system looks for the module that it has begun to import.
        sys.modules.setdefault("sitecustomize", ours)


if sys.version_info >= (3, 5):
    _install()
_run_users_own()
