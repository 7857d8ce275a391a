"""Virtual machines: the kernel and the system of image.sh run one program of guest/ and power off."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
WORK = BUILD / "vm"
IMAGE, HOST, OUT = WORK / "img", WORK / "host", WORK / "out"
SECONDS_TO_BOOT = 180                   # some hang; a busy computer takes a minute


def prepare():
    """The image, and the folder that the machines see as /host; the machines go with us."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if not (IMAGE / "initrd").exists():
        print("making the image", flush=True)
        subprocess.run([HERE / "image.sh", IMAGE], check=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (HOST / "bin").mkdir(parents=True, exist_ok=True)
    for file in (HERE / "guest").iterdir():
        if file.is_file():
            shutil.copy(file, HOST)
    for file in [BUILD / "killat", *BUILD.glob("pop3d-stub*")]:
        shutil.copy(file, HOST / "bin")


def start(job, options, console, memory=1500):
    """Boot a machine that runs /host/JOB[0] with the other words as its arguments."""
    return subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(memory), "-nographic", "-no-reboot",
         "-kernel", IMAGE / "vmlinuz", "-initrd", IMAGE / "initrd",
         "-append", "console=ttyS0 panic=-1 no_timer_check quiet job=" + ",".join(map(str, job)),
         "-virtfs", f"local,path={HOST},mount_tag=host,security_model=none", *options],
        stdin=subprocess.DEVNULL, stdout=console, stderr=console)


def run(job, options, name, seconds, memory=1500):
    """Boot, wait for the end: what the program said, or None where the machine did not come up or to an end."""
    path = OUT / name
    with open(path, "wb") as console:
        process = start(job, options, console, memory)
    began, up = time.monotonic(), False
    try:
        while process.poll() is None:
            time.sleep(0.5)
            up = up or b"init: up" in path.read_bytes()
            took = time.monotonic() - began
            if not up and took > SECONDS_TO_BOOT or took > SECONDS_TO_BOOT + seconds:
                break
    finally:
        process.kill()
        process.wait()
    text = path.read_bytes().decode(errors="replace").replace("\r", "")
    said = re.search(r"init: up\b.*?\n(.*)^init: .*ended: 0$", text, re.M | re.S)
    return said and said[1]


def nbd(path, export):
    """Options for a disk that nbdlog.py serves."""
    return ["-blockdev", f"driver=nbd,node-name={export},export={export},cache.direct=on,server.type=unix,server.path={path}"]
