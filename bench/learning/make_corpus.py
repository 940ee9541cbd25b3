"""Makes the corpus of the learning run from what Debian 12 packages hold: English documentation, dictionaries, and the kernel's source.

    python3 make_corpus.py --work DIR --output DIR [--code-bytes N] [--text-bytes N]

Downloads the packages (apt-get download, no installation) into the work folder, unpacks them there, and writes text.jsonl.zst and code.jsonl.zst, one
document a line, {"text": ...}, as `photon prepare` reads them. Files are taken in sorted order, so equal packages give equal bytes. Documents whose
text was seen before are left out.
"""

import argparse
import glob
import gzip
import hashlib
import html.parser
import json
import os
import re
import subprocess
import tarfile

PACKAGES = """bible-kjv-text debian-reference-en developers-reference dict-gcide exim4-doc-html git-doc installation-guide-amd64
libboost1.74-doc libstdc++-12-doc linux-doc-6.1 linux-source-6.1 maint-guide miscfiles octave-doc perl-doc postgresql-doc-15
python3.11-doc r-doc-html tcl8.6-doc wordnet-base""".split()
CODE_FOLDERS = ("kernel", "mm", "fs", "lib", "block", "crypto", "net", "security", "sound/core", "drivers/base", "drivers/block", "drivers/char", "drivers/net/ethernet/intel",
                "drivers/md", "drivers/nvme", "drivers/pci", "drivers/usb", "drivers/virtio", "arch/x86")
SKIPPED_TAGS = {"script", "style", "head", "nav", "svg"}
BLOCK_TAGS = {"p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "br", "pre", "dt", "dd", "table", "section"}


class Text(html.parser.HTMLParser):
    """The visible text of a page, blocks on lines of their own."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.skipping, self.preformatted = [], 0, 0

    def handle_starttag(self, tag, attributes):
        self.skipping += tag in SKIPPED_TAGS
        self.preformatted += tag == "pre"
        if tag in BLOCK_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.skipping -= tag in SKIPPED_TAGS and self.skipping > 0
        self.preformatted -= tag == "pre" and self.preformatted > 0
        if tag in BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.skipping:
            self.parts.append(data if self.preformatted else re.sub(r"\s+", " ", data))

    def text(self):
        lines = [line.rstrip() for line in "".join(self.parts).splitlines()]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def read(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", errors="ignore")


def html_documents(root):
    pages = glob.glob(os.path.join(root, "usr/share/doc/**/*.html*"), recursive=True)
    for path in sorted(pages):
        page = path[len(root):]
        if not os.path.isfile(path) or os.path.islink(path) or "/search" in page or "genindex" in page:
            continue
        if "installation-guide" in page and "/en/" not in page:
            continue
        parser = Text()
        parser.feed(read(path))
        yield parser.text()


def plain_documents(root):
    for pattern in ("usr/share/doc/**/*.txt*", "usr/share/doc/**/*.rst*", "usr/share/perl/**/*.pod", "usr/share/bible-kjv*/**/*.txt*", "usr/share/miscfiles/*",
                    "usr/share/dictd/*.dict.dz", "usr/share/wordnet/data.*"):
        for path in sorted(glob.glob(os.path.join(root, pattern), recursive=True)):
            if os.path.isfile(path) and not os.path.islink(path):
                text = gzip.open(path, "rb").read().decode("utf-8", "ignore") if path.endswith(".dz") else read(path)
                for begin in range(0, len(text), 1 << 20):
                    yield text[begin:begin + (1 << 20)]


def code_documents(root):
    with tarfile.open(glob.glob(os.path.join(root, "usr/src/linux-source-*.tar.xz"))[0]) as archive:
        for member in archive:
            inner = member.name.partition("/")[2]
            if not member.isfile() or not inner.endswith((".c", ".h", ".S")) or not inner.startswith(CODE_FOLDERS):
                continue
            yield archive.extractfile(member).read().decode("utf-8", errors="ignore")


def write(documents, path, limit):
    """At most `limit` bytes of text; documents of 200 bytes to 1 MiB."""
    seen, num_bytes, num_documents = set(), 0, 0
    with subprocess.Popen(["zstd", "-q", "-f", "-12", "-T0", "-o", path], stdin=subprocess.PIPE) as packer:
        for text in documents:
            size = len(text.encode())
            digest = hashlib.sha256(re.sub(r"\s+", " ", text[:4000]).encode()).digest()
            if not 200 <= size <= (1 << 20) + 65536 or digest in seen:
                continue
            seen.add(digest)
            packer.stdin.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            num_bytes, num_documents = num_bytes + size, num_documents + 1
            if num_bytes >= limit:
                break
        packer.stdin.close()
    print(json.dumps({"file": path, "documents": num_documents, "bytes": num_bytes}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="where packages are downloaded and unpacked")
    parser.add_argument("--output", required=True)
    parser.add_argument("--text-bytes", type=int, default=80_000_000)
    parser.add_argument("--code-bytes", type=int, default=50_000_000)
    arguments = parser.parse_args()
    packages, root = os.path.join(arguments.work, "packages"), os.path.join(arguments.work, "root")
    for folder in (packages, root, arguments.output):
        os.makedirs(folder, exist_ok=True)
    missing = [name for name in PACKAGES if not glob.glob(os.path.join(packages, name + "_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "-q", "download", *missing], cwd=packages, check=True)
    for package in sorted(glob.glob(os.path.join(packages, "*.deb"))):
        subprocess.run(["dpkg", "-x", package, root], check=True)

    def text_documents():
        yield from html_documents(root)
        yield from plain_documents(root)

    write(text_documents(), os.path.join(arguments.output, "text.jsonl.zst"), arguments.text_bytes)
    write(code_documents(root), os.path.join(arguments.output, "code.jsonl.zst"), arguments.code_bytes)


if __name__ == "__main__":
    main()
