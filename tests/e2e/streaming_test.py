#!/usr/bin/env python3
"""Streams on the wire: framing, order, errors, heartbeats; readers that are slow or do not read."""

import json
import sys
import unittest

from penstock import (Closed, Server, chat_body, completion_body, documents_of, events_of,
                      request_bytes, wait_until)

CHAT = '/v1/chat/completions'
COMPLETIONS = '/v1/completions'

# What a stream may hold unsent for a client that does not read: where the server stops writing
# (256 KiB), and what it formats in one go (128 KiB) with one token's event more.
UNSENT_BYTES_MAX = 400 * 1024

SMALL_WINDOW_BYTES = 4096  # of a client that is to be slow


def choices_of(documents):
    return [document['choices'][0] for document in documents if document['choices']]


def text_of(choices, index=0):
    return ''.join(choice['delta'].get('content') or '' if 'delta' in choice else choice['text']
                   for choice in choices if choice['index'] == index)


class StreamCase(unittest.TestCase):
    flags = ()
    speedup = 'max'

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags, speedup=cls.speedup)
        cls.addClassCleanup(cls.server.kill)

    def tearDown(self):
        self.doCleanups()  # closes what the test opened
        self.server.wait_until_idle()
        self.server.check_log()

    def open(self, body, path=CHAT, **options):
        """Starts a stream and reads its head: (connection, head)."""
        connection = self.server.connect(**options)
        self.addCleanup(connection.close)
        connection.request('POST', path, {**body, 'stream': True})
        return connection, connection.read_head()

    def stream(self, body, path=CHAT):
        """A whole stream."""
        connection, response = self.open(body, path)
        self.assertEqual(response.status, 200, response)
        connection.read_body(response)
        return response

    def cancelled(self, reason):
        name = f'penstock_requests_cancelled_total{{reason="{reason}"}}'
        return self.server.metric(name, 0)


class FramingTest(StreamCase):

    def test_E1_headers_keep_proxies_from_buffering(self):
        response = self.stream(chat_body())
        headers = dict(response.headers)
        self.assertEqual(headers.pop('x-request-id'), documents_of(response)[0]['id'])
        self.assertEqual(headers, {'content-type': 'text/event-stream; charset=utf-8',
                                   'cache-control': 'no-cache', 'x-accel-buffering': 'no',
                                   'transfer-encoding': 'chunked'})

    def test_E4_chat_is_role_then_an_event_a_token_then_the_end(self):
        whole = self.server.chat(max_tokens=20, seed=7).json()
        response = self.stream(chat_body(max_tokens=20, seed=7))
        documents = documents_of(response)
        self.assertEqual({document['object'] for document in documents}, {'chat.completion.chunk'})
        for name in ('id', 'created', 'model'):
            self.assertEqual(len({document[name] for document in documents}), 1)
        self.assertTrue(all('usage' not in document for document in documents))
        role, *tokens, last = choices_of(documents)
        self.assertEqual(role['delta'], {'role': 'assistant', 'content': ''})
        self.assertEqual(len(tokens), 20)
        for token in tokens:
            self.assertRegex(token['delta']['content'], r'^ [a-z]+$')
            self.assertIsNone(token['finish_reason'])
        self.assertEqual((last['delta'], last['finish_reason']), ({}, 'length'))
        self.assertEqual(text_of(tokens), whole['choices'][0]['message']['content'])

    def test_E4_completions_are_an_event_a_token_then_the_end(self):
        whole = self.server.complete(max_tokens=20, seed=7).json()
        documents = documents_of(self.stream(completion_body(max_tokens=20, seed=7), COMPLETIONS))
        self.assertEqual({document['object'] for document in documents}, {'text_completion'})
        *tokens, last = choices_of(documents)
        self.assertEqual(len(tokens), 20)
        for token in tokens:
            self.assertRegex(token['text'], r'^ [a-z]+$')
            self.assertIsNone(token['finish_reason'])
        self.assertEqual((last['text'], last['finish_reason']), ('', 'length'))
        self.assertEqual(text_of(tokens), whole['choices'][0]['text'])

    def test_events_are_cut_nowhere(self):
        # A flush is a chunk, and holds whole events: whoever reads chunks sees no half of one.
        for chunk in self.stream(chat_body(max_tokens=500, n=3)).pieces:
            self.assertTrue(chunk.startswith(b'data: '))
            self.assertTrue(chunk.endswith(b'\n\n'))

    def test_E14_usage(self):
        prompt_tokens = self.server.chat().json()['usage']['prompt_tokens']
        for n, max_tokens in ((1, 1), (1, 9), (4, 5)):
            for path, body in ((CHAT, chat_body), (COMPLETIONS, completion_body)):
                with self.subTest(n=n, max_tokens=max_tokens, path=path):
                    request = body(n=n, max_tokens=max_tokens)
                    whole = self.server.request('POST', path, request).json()['usage']
                    request['stream_options'] = {'include_usage': True}
                    *others, last = documents_of(self.stream(request, path))
                    self.assertEqual(last['choices'], [])
                    self.assertEqual(last['usage'], whole)
                    self.assertTrue(all(document['usage'] is None for document in others))
                    self.assertEqual(whole['completion_tokens'], n * max_tokens)
                    self.assertEqual(whole['total_tokens'],
                                     whole['prompt_tokens'] + whole['completion_tokens'])
                    if path == CHAT:
                        self.assertEqual(whole['prompt_tokens'], prompt_tokens)

    def test_E14_cached_tokens(self):
        prompt = [21] * 200
        usages = [self.server.complete(prompt).json()['usage'] for _ in range(2)]
        self.assertEqual([usage['prompt_tokens_details']['cached_tokens'] for usage in usages],
                         [0, 192])
        body = completion_body(prompt, stream_options={'include_usage': True})
        self.assertEqual(documents_of(self.stream(body, COMPLETIONS))[-1]['usage'], usages[1])

    def test_choices_run_side_by_side(self):
        wholes = self.server.chat(n=3, seed=3, max_tokens=15).json()['choices']
        choices = choices_of(documents_of(self.stream(chat_body(n=3, seed=3, max_tokens=15))))
        self.assertEqual(len({whole['message']['content'] for whole in wholes}), 3)
        for whole in wholes:
            own = [choice for choice in choices if choice['index'] == whole['index']]
            self.assertEqual(own[0]['delta'], {'role': 'assistant', 'content': ''})
            self.assertEqual(text_of(own, whole['index']), whole['message']['content'])
            self.assertEqual([choice['finish_reason'] for choice in own], [None] * 16 + ['length'])

    def test_prompts_of_one_request_do_not_mix(self):
        prompts = ['one', 'two', 'three']
        wholes = self.server.complete(prompts, n=2, seed=1).json()['choices']
        alone = [self.server.complete(prompt, seed=1).text() for prompt in prompts]
        self.assertEqual([wholes[2 * i]['text'] for i in range(3)], alone)
        choices = choices_of(documents_of(
            self.stream(completion_body(prompts, n=2, seed=1), COMPLETIONS)))
        for index, whole in enumerate(wholes):
            self.assertEqual(text_of(choices, index), whole['text'])

    def test_E13_stop_strings_are_not_shown_nor_is_more_cut(self):
        words = self.server.chat(max_tokens=20, seed=5).text().split(' ')[1:]
        # Inside a word, a whole word, and across two and three tokens.
        for stop in (words[4][1:3], f' {words[6]} ', f'{words[7][-1]} {words[8]}',
                     f'{words[3][-2:]} {words[4]} {words[5][:2]}'):
            text = ' ' + ' '.join(words)
            with self.subTest(stop=stop):
                expected = text[:text.index(stop)]
                whole = self.server.chat(max_tokens=20, seed=5, stop=stop)
                self.assertEqual(whole.text(), expected)
                self.assertEqual(whole.json()['choices'][0]['finish_reason'], 'stop')
                choices = choices_of(documents_of(
                    self.stream(chat_body(max_tokens=20, seed=5, stop=stop))))
                self.assertEqual(text_of(choices), expected)
                self.assertEqual(choices[-1]['finish_reason'], 'stop')

    def test_E13_what_only_begins_like_a_stop_string_is_shown(self):
        whole = self.server.chat(max_tokens=20, seed=5).text()
        almost = [whole[-3:] + '!', whole[5:12] + '!', 'no such text']
        choices = choices_of(documents_of(
            self.stream(chat_body(max_tokens=20, seed=5, stop=almost))))
        self.assertEqual(text_of(choices), whole)
        self.assertEqual(choices[-1]['finish_reason'], 'length')

    def test_logprobs_and_token_ids_go_with_their_tokens(self):
        fields = {'logprobs': True, 'top_logprobs': 2, 'return_token_ids': True, 'seed': 2}
        whole = self.server.chat(**fields).json()
        choices = choices_of(documents_of(self.stream(chat_body(**fields))))[1:]
        entries = [entry for choice in choices if choice['logprobs']
                   for entry in choice['logprobs']['content']]
        self.assertEqual(entries, whole['choices'][0]['logprobs']['content'])
        self.assertEqual(len(entries), 8)
        for choice in choices[:-1]:
            self.assertEqual([entry['token'] for entry in choice['logprobs']['content']],
                             [choice['delta']['content']])
        ids = [token for choice in choices for token in choice.get('token_ids', [])]
        self.assertEqual(ids, whole['choices'][0]['token_ids'])

    def test_http_1_0_stream_ends_with_the_connection(self):
        body = json.dumps(chat_body(stream=True)).encode()
        with self.server.connect() as connection:
            head = f'POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n'
            connection.send(head.encode() + body)
            response = connection.read_response()
        self.assertNotIn('transfer-encoding', response.headers)
        self.assertEqual(len(choices_of(documents_of(response))), 10)

    def test_keep_alive_after_streams_and_errors(self):
        text = self.server.chat(seed=9).text()
        with self.server.connect() as connection:
            for _ in range(20):
                connection.request('POST', CHAT, chat_body(stream=True, seed=9))
                choices = choices_of(documents_of(connection.read_response()))
                self.assertEqual(text_of(choices), text)
                connection.request('POST', CHAT, chat_body(stream='maybe'))
                self.assertEqual(connection.read_response().status, 400)
                connection.request('POST', CHAT, chat_body(seed=9))
                self.assertEqual(connection.read_response().text(), text)

    def test_pipelined_requests_are_answered_in_order(self):
        wanted = [(kind, number) for number in range(1, 21)
                  for kind in ('stream', 'whole', 'refused', 'health')]
        requests = {
            'stream': lambda number: request_bytes('POST', CHAT, chat_body(
                stream=True, max_tokens=number, stream_options={'include_usage': True})),
            'whole': lambda number: request_bytes('POST', COMPLETIONS, completion_body(
                max_tokens=number)),
            'refused': lambda number: request_bytes('POST', CHAT, chat_body(model=f'm{number}')),
            'health': lambda number: request_bytes('GET', f'/v1/models/m{number}'),
        }
        with self.server.connect() as connection:
            connection.send(b''.join(requests[kind](number) for kind, number in wanted))
            for kind, number in wanted:
                response = connection.read_response()
                if kind == 'stream':
                    usage = documents_of(response)[-1]['usage']
                    self.assertEqual(usage['completion_tokens'], number)
                elif kind == 'whole':
                    self.assertEqual(response.json()['usage']['completion_tokens'], number)
                else:
                    self.assertIn(f'"m{number}"', response.error()['message'])


class ErrorEventTest(StreamCase):
    """E3, E5, E19: what ends an answer before its time is told, whatever has been sent before."""

    # The first token takes 0.2 s, each other 57 ms: some fit, and 50,000 do not.
    speedup = 0.1
    flags = ('--request-timeout-s', '2')

    def test_E3_E19_deadline_in_a_stream_is_an_error_event_and_a_clean_end(self):
        response = self.stream(chat_body(max_tokens=50_000))
        *before, (field, last) = events_of(response)
        self.assertEqual(field, 'data')
        error = json.loads(last)['error']
        self.assertEqual(error['code'], 'deadline_exceeded')
        self.assertIn('2 s', error['message'])
        self.assertNotIn(('data', '[DONE]'), before)
        documents = [json.loads(text) for _, text in before]
        self.assertGreater(len(documents), 2)
        self.assertTrue(all(choice['finish_reason'] is None for choice in choices_of(documents)))

    def test_E3_every_choice_of_it_ends(self):
        events = events_of(self.stream(chat_body(max_tokens=50_000, n=4)))
        self.assertIn('"error"', events[-1][1])
        self.assertEqual(sum('"error"' in text for _, text in events), 1)

    def test_E19_deadline_of_a_whole_answer_is_504(self):
        for path, body in ((CHAT, chat_body), (COMPLETIONS, completion_body)):
            with self.subTest(path):
                response = self.server.request('POST', path, body(max_tokens=50_000))
                self.assertEqual(response.status, 504, response)
                self.assertEqual(response.error()['code'], 'deadline_exceeded')

    def test_deadlines_are_counted(self):
        before = self.cancelled('deadline')
        self.stream(chat_body(max_tokens=50_000))
        self.server.chat(max_tokens=50_000)
        self.assertEqual(self.cancelled('deadline'), before + 2)

    def test_the_connection_is_good_for_more(self):
        connection, head = self.open(chat_body(max_tokens=50_000))
        connection.read_body(head)
        connection.request('POST', CHAT, chat_body(max_tokens=1))
        self.assertEqual(connection.read_response().json()['usage']['completion_tokens'], 1)


class SilentStreamTest(StreamCase):
    """A prompt that takes long: 16.5 ms / 0.01 to the first token."""

    speedup = 0.01
    flags = ('--heartbeat-s', '0.2')

    def test_E2_heartbeats_come_before_the_first_token_and_between_tokens(self):
        connection, head = self.open(chat_body(max_tokens=50_000))
        self.assertEqual(head.headers['x-accel-buffering'], 'no')
        events = connection.events()
        self.assertEqual(next(events)[0], 'comment')
        kinds = []
        while kinds.count('data') < 2:  # the role, the first token
            kinds.append(next(events)[0])
        while next(events)[0] != 'comment':
            pass
        connection.close()

    def test_E2_no_heartbeat_where_none_is_asked_for(self):
        # Nor in answers that are not streamed, where it would be garbage.
        self.assertEqual(self.server.chat(max_tokens=1).json()['choices'][0]['index'], 0)


class SilentDeadlineTest(StreamCase):
    speedup = 0.005
    flags = ('--heartbeat-s', '0.2', '--request-timeout-s', '2')

    def test_E5_deadline_after_heartbeats_alone_is_an_error_event(self):
        events = events_of(self.stream(chat_body(max_tokens=1000)))
        self.assertEqual(events[0][0], 'comment')
        self.assertNotIn(('data', '[DONE]'), events)
        self.assertEqual(json.loads(events[-1][1])['error']['code'], 'deadline_exceeded')


class ReaderTest(StreamCase):
    """Readers that are slow or do not read, of an engine that is as fast as it can be."""

    def debug(self):
        requests = self.server.debug_requests()
        self.assertEqual(len(requests), 1)
        return requests[0]

    def wait_until_held_back(self):
        """Until the server keeps tokens back because the client does not read."""
        return wait_until(lambda: self.debug()['held_tokens'] > 0 and self.debug(),
                          'tokens are held back')

    def test_not_reading_costs_a_bounded_buffer_and_nobody_else(self):
        expected = self.server.chat('Are you well?').text()
        connection, _ = self.open(chat_body(n=8, max_tokens=20_000),
                                  receive_buffer=SMALL_WINDOW_BYTES)
        self.wait_until_held_back()
        for _ in range(50):
            self.assertEqual(self.server.chat('Are you well?').text(), expected)
            self.assertEqual(len(choices_of(documents_of(self.stream(chat_body(max_tokens=100))))),
                             102)
            self.assertLess(self.debug()['unsent_bytes'], UNSENT_BYTES_MAX)
        connection.close()

    def test_slow_reader_gets_every_token_in_order(self):
        whole = self.server.chat(max_tokens=60_000, seed=4).text()
        connection, _ = self.open(chat_body(max_tokens=60_000, seed=4),
                                  receive_buffer=SMALL_WINDOW_BYTES)
        self.wait_until_held_back()
        pieces = []
        unsent_max = 0
        for number, (field, text) in enumerate(connection.events()):
            self.assertEqual(field, 'data')
            if text != '[DONE]':
                pieces.append(text_of(choices_of([json.loads(text)])))
            if number % 5000 == 0:
                requests = self.server.debug_requests()
                unsent_max = max([unsent_max, *[one['unsent_bytes'] for one in requests]])
        self.assertEqual(text, '[DONE]')
        self.assertEqual(''.join(pieces), whole)
        self.assertEqual(len(pieces), 60_002)
        self.assertLess(unsent_max, UNSENT_BYTES_MAX)

    def test_many_choices_of_a_slow_reader_arrive_whole(self):
        wholes = self.server.chat(n=8, max_tokens=4000, seed=4).json()['choices']
        connection, head = self.open(chat_body(n=8, max_tokens=4000, seed=4),
                                     receive_buffer=SMALL_WINDOW_BYTES)
        self.wait_until_held_back()
        connection.read_body(head)
        choices = choices_of(documents_of(head))
        for index, whole in enumerate(wholes):
            self.assertEqual(text_of(choices, index), whole['message']['content'])

    def test_fast_reader_of_a_fast_engine_is_not_dropped(self):
        response = self.stream(chat_body(n=4, max_tokens=20_000))
        self.assertEqual(len(choices_of(documents_of(response))), 4 * 20_002)


class StalledReaderTest(StreamCase):
    flags = ('--stall-timeout-s', '1')

    def test_who_takes_nothing_is_dropped(self):
        before = self.cancelled('client_gone')
        connection, _ = self.open(chat_body(n=8, max_tokens=20_000),
                                  receive_buffer=SMALL_WINDOW_BYTES)
        wait_until(lambda: self.cancelled('client_gone') == before + 1, 'the client is dropped')
        self.assertEqual(self.server.debug_requests(), [])
        # It finds its stream cut, not complete.
        with self.assertRaises(Closed):
            for _ in connection.events():
                pass


if __name__ == '__main__':
    sys.exit(unittest.main())
