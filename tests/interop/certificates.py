"""A throw-away authority, made with openssl, and what it signs: PEM files in the folder of the case."""

import base64
import hashlib
import subprocess
import time
from pathlib import Path


class Authority:
    """`ca` is the path of its certificate."""

    def __init__(self, folder, name="authority"):
        self.folder = Path(folder)
        self.name = name
        self.ca = self.folder / f"{name}.pem"
        # The same without what is trusted beside it.
        self.ca_alone = self.folder / f"{name}-alone.pem"
        self._key = self.folder / f"{name}.key"
        self._openssl(
            "req", "-x509", *self._new_key(self._key), "-out", self.ca, "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )
        self.ca_alone.write_text(self.ca.read_text())

    def server(self, name="localhost"):
        """The paths of the certificate of a server with this name, at 127.0.0.1, and of its key."""
        return self._signed(f"{self.name}-{name}", name, f"subjectAltName=DNS:{name},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")

    def client(self, common_name):
        """The same for a client."""
        return self._signed(f"{self.name}-{common_name}", common_name, "extendedKeyUsage=clientAuth\n")

    def old_client(self, common_name):
        """The same of X.509 version 1: without extensions."""
        chain, key, request = (self.folder / f"{self.name}-{common_name}.{kind}" for kind in ("pem", "key", "request"))
        self._openssl("req", *self._new_key(key), "-out", request, "-subj", f"/CN={common_name}")
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-out", chain, "-days", "2",
        )
        assert "Version: 1 " in self._openssl("x509", "-in", chain, "-noout", "-text")
        return chain, key

    def trusted_client(self, common_name):
        """A self-signed certificate, which is trusted beside the authority."""
        chain, key = self.folder / f"{common_name}.pem", self.folder / f"{common_name}.key"
        self._openssl("req", "-x509", *self._new_key(key), "-out", chain, "-days", "2", "-subj", f"/CN={common_name}")
        with self.ca.open("a") as trusted:
            trusted.write(chain.read_text())
        return chain, key

    def revoke(self, *chains, hours=24):
        """The path of a list with these certificates, which expires in so many hours, or has expired before now."""
        number = len(list(self.folder.glob(f"{self.name}-list-*.pem")))
        index, configuration = self.folder / f"{self.name}-list-{number}.index", self.folder / f"{self.name}-list.cnf"
        index.write_text("")
        # Without a number, it would be of version 1.
        numbers = self.folder / f"{self.name}-list.number"
        numbers.write_text("01\n")
        configuration.write_text(f"[ca]\ndefault_ca=one\n[one]\ndatabase={index}\ndefault_md=sha256\ncrlnumber={numbers}\n")
        words = ["ca", "-config", configuration, "-cert", self.ca_alone, "-keyfile", self._key]
        for chain in chains:
            self._openssl(*words, "-revoke", chain)
        path = self.folder / f"{self.name}-list-{number}.pem"
        # openssl writes no list that has expired before it was written.
        when = ["-crlhours", hours] if hours > 0 else ["-crlsec", 1]
        self._openssl(*words, "-gencrl", *when, "-out", path)
        if hours <= 0:
            time.sleep(2)
        return path

    def issue(self, common_name, *options, extensions="extendedKeyUsage=clientAuth", issuer=None):
        """A certificate with a key that `openssl req` makes with these options, and these extensions and no others.

        `issuer` is another one of these that issues it instead.
        """
        chain, own_key, request = (self.folder / f"{self.name}-{common_name}.{kind}" for kind in ("pem", "key", "request"))
        file = self.folder / f"{self.name}-{common_name}.extensions"
        file.write_text(extensions + "\n")
        new_key = options or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        self._openssl("req", *new_key, "-nodes", "-keyout", own_key, "-out", request, "-subj", f"/CN={common_name}")
        ca, key = issuer or (self.ca_alone, self._key)
        self._openssl(
            "x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-CAcreateserial", "-out", chain, "-days", "2",
            "-extfile", file,
        )
        return chain, own_key

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
