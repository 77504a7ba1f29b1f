#!/usr/bin/env python3
"""tidy.py finds each kind of breach, at its line, and nothing in a tree that is in order."""

import os
import tempfile
import unittest
import unittest.mock

import tidy


class TidyTest(unittest.TestCase):
    def setUp(self):
        for exceptions in (tidy.LONG_FILES, tidy.WIDE_FILES):  # not of this tree
            cleared = unittest.mock.patch.dict(exceptions, clear=True)
            cleared.start()
            self.addCleanup(cleared.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)

    def expect(self, *starts):
        """The breaches are these and no others; each begins with the given text."""
        breaches = tidy.Tidy(self.root).check()
        self.assertEqual(len(breaches), len(starts), breaches)
        for breach, start in zip(breaches, starts):
            self.assertTrue(breach.startswith(start), f'{breach!r} is not {start!r}')
            self.assertIn('Mend: ', breach)

    def test_accepts_a_tree_in_order(self):
        self.write('src/base/result.h', '#pragma once\n#include <string>\n')
        self.write('src/net/loop.cc',
                   '#include "base/result.h"\n#include "net/loop.h"\n#include <boost/asio.hpp>\n')
        self.write('src/net/internal/core.h', '#pragma once\n#include <boost/asio.hpp>\n')
        self.write('src/net/core.cc', '#include "net/internal/core.h"\n')
        self.write('src/engine/llama/context.cc', '#include "llama.h"\n#include "kv/block.h"\n')
        self.write('CMakeLists.txt', 'penstock_module(net USES base LIBS Boost::headers)\n')
        self.write('README.md', 'A line of prose may be long. ' * 10 + 'src/home/x, ~/work/, x//\n')
        self.expect()

    def test_includes_go_down_only(self):
        self.write('src/net/a.cc', '\n#include "engine/engine.h"\n')
        self.write('src/kv/b.h', '#pragma once\n#include "text/tokenizer.h"\n')
        self.write('src/base/c_test.cc', '  #  include "net/loop.h"\n')
        self.write('src/cli/d.cc', '#include "serve/service.h"\n')
        self.expect('src/base/c_test.cc:1: base (floor 0) includes net/loop.h of net (floor 1)',
                    'src/kv/b.h:2: kv (floor 1) includes text/tokenizer.h of text (floor 2)',
                    'src/net/a.cc:2: net (floor 1) includes engine/engine.h of engine (floor 3)')

    def test_includes_are_written_from_src(self):
        self.write('src/net/a.h', '#pragma once\n')
        self.write('src/net/b.cc', '#include "a.h"\n#include "../engine/engine.h"\n')
        self.expect('src/net/b.cc:1: "a.h" is relative',
                    'src/net/b.cc:2: "../engine/engine.h" is relative')

    def test_every_module_has_a_floor(self):
        self.write('src/attic/a.cc', '\n')
        self.write('src/cli/b.cc', '#include "attic/a.h"\n')
        self.expect('src/attic/a.cc:1: module attic has no floor',
                    'src/cli/b.cc:1: module attic has no floor')

    def test_the_build_keeps_to_the_floors(self):
        self.write('CMakeLists.txt', 'penstock_module(base LIBS fmt::fmt)\n'
                                     'penstock_module(net USES base kv LIBS x)\n'
                                     'penstock_module(serve USES engine attic)\n')
        self.expect('CMakeLists.txt:2: net uses kv', 'CMakeLists.txt:3: module attic has no floor')

    def test_headers_are_light(self):
        for number, heavy in enumerate(['<boost/asio.hpp>', '<grpcpp/grpcpp.h>', '"llama.h"',
                                        '"chat.h"', '"common/chat.h"', '<simdjson.h>']):
            self.write(f'src/net/h{number}.h', f'#pragma once\n#include {heavy}\n')
        self.expect(*[f'src/net/h{number}.h:2: a header includes the heavy' for number in range(6)])

    def test_light_headers_are_no_breach(self):
        self.write('src/serve/a.h', '#pragma once\n#include "text/chat_template.h"\n')
        self.write('src/serve/b.h', '#pragma once\n#include "text/my_llama.h"\n')
        self.expect()

    def test_internal_headers_are_for_their_module(self):
        self.write('src/serve/a.cc', '#include "net/internal/core.h"\n')
        self.expect('src/serve/a.cc:1: net/internal/core.h is for net alone')

    def test_headers_begin_with_pragma_once(self):
        self.write('src/net/a.h', '// a comment first\n#pragma once\n')
        self.write('src/net/b.h', '')
        self.expect('src/net/a.h:1: the header does not start',
                    'src/net/b.h:1: the header does not start')

    def test_files_and_lines_are_short(self):
        self.write('src/net/a.cc', '//\n' * 601)
        self.write('src/net/b.cc', '//\n' * 600 + '')
        self.write('tools/c.py', '#' * 100 + '\n' + '#' * 101 + '\n')
        self.write('tools/d.py', '#' + 'é' * 99 + '\n')  # characters count, not bytes
        self.expect('src/net/a.cc:601: 601 lines', 'tools/c.py:2: 101 columns')

    def test_words_that_must_not_be_there(self):
        self.write('docs/a.md', 'fine\nTODO(' + 'now): x\nTODO(perf): x\n')
        self.write('tools/b.sh', 'cd ' + '/ho' + 'me/someone\nX=' + '/ro' + 'ot/x\n')
        self.write('tools/c.py', "path = '" + '/wo' + "rk/x'\n")
        self.write('tools/d.sh', 'curl https://' + 'pypi' + '.org/simple\n')
        self.write('tools/e.sh', 'cd $HOME/work/x; ls src/root/ ~/home/ ${X}/root/\n')
        self.expect('docs/a.md:2: unfinished work', 'tools/b.sh:1: a path', 'tools/b.sh:2: a path',
                    'tools/c.py:1: a path', "tools/d.sh:1: a package registry's host name")

    def test_what_is_no_text_is_passed_over(self):
        self.write('bench/a.png', '\0' + 'TODO(' + 'now)')
        self.expect()

    def test_git_decides_what_belongs_to_the_project(self):
        tidy.subprocess.run(['git', 'init', '--quiet', self.root], check=True)
        self.write('.gitignore', '/build/\n')
        self.write('build/a.h', 'no pragma\n')
        self.write('b.h', 'no pragma\n')
        self.expect('b.h:1: the header does not start')

    def test_without_git_it_looks_for_itself(self):
        self.write('.git', 'no repository\n')
        self.write('build-asan/a.h', 'no pragma\n')
        self.write('b.h', 'no pragma\n')
        self.expect('b.h:1: the header does not start')

    def test_exceptions_do_not_outlive_their_files(self):
        tidy.LONG_FILES['src/gone.cc'] = 'once long'
        self.expect('tests/tidy/tidy.py:1: the list of exceptions names src/gone.cc')


if __name__ == '__main__':
    unittest.main()
