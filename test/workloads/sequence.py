"""A numbered sequence with times, in two files that stay small: `<number> <time> <token>` a line, the older half in `.old`.

Whoever reads it from outside sees every pause of the process, every number that is missing, and by the token, which
lives in memory alone, whether it is still the same process.
"""
import os
import time

LIMIT_BYTES = 1 << 18


class Sequence:
    def __init__(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.path = path
        self.token = os.urandom(8).hex()
        self.number = 0
        self.open()

    def open(self):
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.bytes = 0

    def tick(self):
        self.number += 1
        line = f"{self.number} {time.time():.4f} {self.token}\n".encode()
        self.bytes += os.write(self.file, line)
        if self.bytes > LIMIT_BYTES:
            os.rename(self.path, self.path + ".old")
            os.close(self.file)
            self.open()
