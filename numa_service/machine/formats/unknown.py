"""Guesses what an input is that is in none of the known formats, for the error message."""

from __future__ import annotations

import codecs
import re

from numa_service.machine.notation import one_line

#: First bytes of files that are not text, and what such a file is.
_MAGIC = (
    (b"\x1f\x8b", "gzip data: unpack it, or call it .tar.gz if it is an archive of /sys and /proc"),
    (b"BZh", "bzip2 data: unpack it, or call it .tar.bz2 if it is an archive of /sys and /proc"),
    (b"\xfd7zXZ\0", "xz data: unpack it, or call it .tar.xz if it is an archive of /sys and /proc"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"PERFILE2", "a perf.data file, which is a trace: see replay"),
    (b"NTRACE", "an .ntrace file, which is a trace: see replay"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "a picture"),
    (b"%PDF", "a PDF"),
    (codecs.BOM_UTF16_LE, "UTF-16 text: save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text: save it as UTF-8"),
)

#: Patterns of text, and what it is; the first that is found in the first 64 KiB counts.
_TEXTS = (
    (
        r"^(?:.*\bMem-Info:|.*\binvoked oom-killer:|.*page allocation failure: order)",
        "an OOM report of a kernel",
    ),
    (r"^# tracer: |^ *\S+-\d+ +\[\d+\] .*: mm_page_", "a kernel trace: see replay"),
    (r"^(?:<\d+>)?\[ *\d+\.\d+\] |^(?:.* kernel: )?(?:ACPI: )?SRAT: ", "a boot log (dmesg)"),
    (r"^(?:From|Received|Return-Path|Subject|Message-ID): ", "an email"),
    (
        r"^Node \d+, zone +\w+$",
        "the text of /proc/zoneinfo alone: give the directory that has it, with node/",
    ),
    (r"^Node \d+, zone +\w+ +\d", "the text of /proc/buddyinfo"),
    (r"^MemTotal: +\d+ kB$", "the text of /proc/meminfo"),
    (r"^processor\s*: \d+$", "the text of /proc/cpuinfo"),
    (r"^ +node0 +node1|^numa_hit +\d", "the text of numastat"),
    (r"^(?:Architecture|CPU\(s\)): +\S", "the text of lscpu"),
    (r"^(?:Machine|Package|NUMANode) (?:L#|\()", "the drawing of lstopo: give its XML (lstopo --of xml)"),
    (
        r"(?:^|\s)--(?:memory-zone|numa|cpus)\s+\S*(?:guest_numa_id|boot=|size=|id=)",
        "arguments of cloud-hypervisor",
    ),
    (r"\A\s*[{\[]\s*(?:[\"{\[\]}]|-?\d)", "JSON"),
    (r"\A(?:%YAML|---\s)|^(?:apiVersion|kind): ", "YAML"),
    (r"\A#!", "a script"),
)
#: Root element of XML, and what such a document is.
_XML = {
    "domain": "a domain of libvirt (virsh dumpxml)",
    "capabilities": "the capabilities of a host by libvirt (virsh capabilities)",
    "domainCapabilities": "the capabilities of libvirt's domains",
    "html": "a web page",
    "svg": "a picture",
}


def looks_like(start: bytes) -> str:
    """A noun phrase for what an input seems to be, by its first 64 KiB."""
    for magic, what in _MAGIC:
        if start.startswith(magic):
            return what
    text = start.decode("utf-8", "replace")
    if "\0" in text or text.count("\ufffd") > len(text) // 10:
        return "binary data"
    for pattern, what in _TEXTS:
        if re.search(pattern, text, re.MULTILINE):
            return what
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"text that begins {one_line(first, 40)!r}"


def xml_looks_like(tag: str) -> str:
    """A noun phrase for what XML with this root element is."""
    return _XML.get(tag, "XML of something else")
