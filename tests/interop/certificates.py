"""A throw-away authority, made with openssl, and what it signs: PEM files in the folder of the case."""

import base64
import hashlib
import subprocess
from pathlib import Path


class Authority:
    """`ca` is the path of its certificate."""

    def __init__(self, folder, name="authority"):
        self.folder = Path(folder)
        self.name = name
        self.ca = self.folder / f"{name}.pem"
        self._key = self.folder / f"{name}.key"
        self._openssl(
            "req", "-x509", *self._new_key(self._key), "-out", self.ca, "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )

    def server(self, name="localhost"):
        """The paths of the certificate of a server with this name, at 127.0.0.1, and of its key."""
        return self._signed(f"{self.name}-{name}", name, f"subjectAltName=DNS:{name},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")

    def client(self, common_name):
        """The same for a client."""
        return self._signed(f"{self.name}-{common_name}", common_name, "extendedKeyUsage=clientAuth\n")

    def _signed(self, file, common_name, extensions):
        chain, key, request = (self.folder / f"{file}.{kind}" for kind in ("pem", "key", "request"))
        extensions_file = self.folder / f"{file}.extensions"
        extensions_file.write_text(f"basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n{extensions}")
        self._openssl("req", *self._new_key(key), "-out", request, "-subj", f"/CN={common_name}")
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-out", chain,
            "-days", "2", "-extfile", extensions_file,
        )
        return chain, key

    @staticmethod
    def _new_key(path):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path

    @staticmethod
    def _openssl(*words):
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, f"openssl {words[0]} failed: {done.stderr}"
        return done.stdout


def key_hash(chain):
    """What Chromium calls a certificate's key: SHA-256 of its public half, in base64."""
    public = Authority._openssl("x509", "-in", chain, "-noout", "-pubkey")
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=public.encode(), capture_output=True, check=True)
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()
