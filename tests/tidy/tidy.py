#!/usr/bin/env python3
"""Keeps the tree in order: reads every text file and prints each breach of the house rules as
FILE:LINE with how to mend it. Exits with 1 if there is any.

    tests/tidy/tidy.py [ROOT]
"""

import os
import re
import subprocess
import sys

# A module may include only from floors below its own; two on one floor may not see each other.
FLOORS = {
    'base': 0,
    'net': 1, 'kv': 1, 'transfer': 1,
    'tiers': 2, 'text': 2, 'api': 2,
    'engine': 3,
    'fleet': 4,
    'router': 5, 'planner': 5,
    'serve': 6, 'sim': 6,
    'cli': 7,
}

LINES_MAX = 600
COLUMNS_MAX = 100
# path: why it may be longer
LONG_FILES = {'src/net/http_server_test.cc': 'one fixture, a case a rule of HTTP'}
WIDE_FILES = {name: 'JSON in raw strings cannot be broken' for name in (
    'src/serve/service_test.cc', 'src/cli/load/answer_test.cc', 'src/cli/load/trace_test.cc')}

# Slow to compile, or a name space of their own: behind an interface, never in a header that
# others include. Headers in a folder called internal/ may have them; only their own module
# includes those.
HEAVY = re.compile(r'(^|/)(boost/|grpc|llama\.h$|chat\.h$|simdjson\.h$)')

CODE = re.compile(r'(\.(h|cc|py|sh|cmake|proto|js|mjs|ts|css)|CMakeLists\.txt|Makefile)$')
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
MODULE = re.compile(r'^\s*penstock_module\((\w+)(?:\s+USES\s+([^)]*?))?'
                    r'(?:\s+(?:LIBS|SINGLE_THREADED)\b[^)]*)?\)')

# What must not be in the project: (pattern, what it is, how to mend it).
WORDS = [
    (re.compile(r'TODO\(now\)'), 'unfinished work', 'finish it'),
    (re.compile(r'(?<![\w.~$})-])/(?:work|root|home)/'), "a path of one machine",
     'make it relative, or take it from the environment'),
    (re.compile(r'(?:pypi|pythonhosted)\.org|registry\.npmjs\.org|registry\.yarnpkg\.com|'
                r'crates\.io|rubygems\.org|proxy\.golang\.org|repo\.maven\.apache\.org|'
                r'conda\.anaconda\.org|(?:deb|security)\.debian\.org|archive\.ubuntu\.com'),
     "a package registry's host name", "leave it to the registry's client and its settings"),
]


def list_files(root):
    """Everything that is or could be committed, relative to `root`."""
    command = ['git', '-C', root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    if os.path.exists(os.path.join(root, '.git')):
        try:
            listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
            return sorted({name for name in listed.split('\0')
                           if os.path.isfile(os.path.join(root, name))})
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or not our repository to its mind: look for ourselves
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders
                      if not name.startswith(('.git', 'build')) and
                      name not in ('node_modules', '__pycache__')]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def read_lines(path):
    """None for what is no text."""
    with open(path, 'rb') as file:
        content = file.read()
    if b'\0' in content[:8192]:
        return None
    return content.decode('utf-8', errors='replace').splitlines()


def module_of(path):
    """'net' for src/net/loop.h; None outside of src/."""
    parts = path.split('/')
    return parts[1] if len(parts) > 2 and parts[0] == 'src' else None


class Tidy:
    def __init__(self, root):
        self.root = root
        self.breaches = []

    def breach(self, path, line, what, mend):
        self.breaches.append(f'{path}:{line}: {what}. Mend: {mend}.')

    def check_words(self, path, lines):
        for number, line in enumerate(lines, 1):
            for pattern, what, mend in WORDS:
                match = pattern.search(line)
                if match:
                    self.breach(path, number, f'{what}, "{match.group()}"', mend)

    def check_size(self, path, lines):
        if len(lines) > LINES_MAX and path not in LONG_FILES:
            self.breach(path, LINES_MAX + 1, f'{len(lines)} lines, more than {LINES_MAX}',
                        'split the file along its ideas')
        if path in WIDE_FILES:
            return
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS_MAX:
                self.breach(path, number, f'{len(line)} columns, more than {COLUMNS_MAX}',
                            'break the line')

    def check_header(self, path, lines):
        if not lines or lines[0].strip() != '#pragma once':
            self.breach(path, 1, 'the header does not start with #pragma once',
                        'make that its first line')

    def check_include(self, path, number, quote, target):
        module = module_of(path)
        is_public_header = path.endswith('.h') and '/internal/' not in path
        if is_public_header and HEAVY.search(target):
            self.breach(path, number, f'a header includes the heavy {target}',
                        'hide it behind an interface, or move the header into internal/')
        if quote != '"':
            return
        beside = os.path.join(self.root, os.path.dirname(path), target)
        if target.startswith('.') or ('/' not in target and os.path.exists(beside)):
            self.breach(path, number, f'"{target}" is relative to this file',
                        'write the path from src/')
            return
        other = target.split('/')[0] if '/' in target else None
        if other is None or other == module:
            return
        if other in FLOORS:
            if FLOORS[other] >= FLOORS.get(module, 0):
                self.breach(path, number,
                            f'{module} (floor {FLOORS.get(module, 0)}) includes {target} of '
                            f'{other} (floor {FLOORS[other]})',
                            'move what both need to a lower floor, or turn the call around')
            if '/internal/' in target:
                self.breach(path, number, f'{target} is for {other} alone',
                            f'use a header that {other} offers')
        elif os.path.isdir(os.path.join(self.root, 'src', other)):
            self.breach(path, number, f'module {other} has no floor', 'add it to FLOORS')

    def check_source(self, path, lines):
        if module_of(path) not in FLOORS:
            self.breach(path, 1, f'module {module_of(path)} has no floor', 'add it to FLOORS')
            return
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if match:
                self.check_include(path, number, match.group(1), match.group(2))

    def check_modules(self, path, lines):
        """The modules that the build links are held to the same floors."""
        for number, line in enumerate(lines, 1):
            match = MODULE.match(line)
            if not match:
                continue
            name, uses = match.group(1), (match.group(2) or '').split()
            for other in [name, *uses]:
                if other not in FLOORS:
                    self.breach(path, number, f'module {other} has no floor', 'add it to FLOORS')
                elif other != name and FLOORS[other] >= FLOORS.get(name, 0):
                    self.breach(path, number, f'{name} uses {other}, which is on no lower floor',
                                'move what both need to a lower floor')

    def check(self):
        for path in list_files(self.root):
            lines = read_lines(os.path.join(self.root, path))
            if lines is None:
                continue
            self.check_words(path, lines)
            if CODE.search(path):
                self.check_size(path, lines)
            if path.endswith('.h'):
                self.check_header(path, lines)
            if module_of(path) and path.endswith(('.h', '.cc')):
                self.check_source(path, lines)
            if path == 'CMakeLists.txt':
                self.check_modules(path, lines)
        for path in [*LONG_FILES, *WIDE_FILES]:
            if not os.path.exists(os.path.join(self.root, path)):
                self.breach('tests/tidy/tidy.py', 1, f'the list of exceptions names {path}, '
                            'which is gone', 'remove it there')
        return self.breaches


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, '..', '..'))
    breaches = Tidy(root).check()
    for breach in breaches:
        print(breach)
    if breaches:
        print(f'tidy: {len(breaches)} breaches')
    return 1 if breaches else 0


if __name__ == '__main__':
    sys.exit(main())
