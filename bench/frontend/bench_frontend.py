#!/usr/bin/env python3
"""What Penstock's front end costs: CPU a request and a streamed token, added latency, memory.

The simulated engine computes nothing, so what is measured is everything else: HTTP, JSON, template,
the demo model's tokenizer, hashing, admission, the scheduler, detokenizing, SSE. CPU is
the server's process alone (the kernel's nanoseconds), loaded by `penstock bench` in a process of
its own. nginx as a dumb proxy before that same server is the floor that a gateway could reach: its
column is nginx alone, which parses no JSON and knows no tokens.

    bench/frontend/run.sh [--rounds 3] [--seconds 5] [--points a,b] [--json FILE]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from servers import PENSTOCK, Server, free_port, load, machine, say, span, table

NGINX_CONFIG = '''
daemon off;
worker_processes 2;
pid {work}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000;
  upstream engines {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
'''

SHORT = ['--prompt-bytes', 512, '--max-tokens', 32]
# name: (the engine's pace, arguments of penstock bench)
POINTS = {
    'short c=1': ('max', ['--concurrency', 1, *SHORT]),
    'short c=16': ('max', ['--concurrency', 16, *SHORT]),
    'short c=128': ('max', ['--concurrency', 128, *SHORT]),
    'whole c=64': ('max', ['--concurrency', 64, '--no-stream', *SHORT]),
    'decode c=64': ('max', ['--concurrency', 64, '--prompt-bytes', 512, '--max-tokens', 256]),
    'paced c=64': ('0.658', ['--concurrency', 64, '--prompt-bytes', 512, '--max-tokens', 256]),
    'long c=4': ('max', ['--concurrency', 4, '--prompt-bytes', 240_000, '--max-tokens', 16]),
}
PACED = 'paced c=64'  # 6.58 ms a token by the simulated engine's clock, slowed down to 10
TURNS = 60  # that follow the first of a 240 kB conversation


def penstock(speedup):
    port = free_port()
    return Server('penstock', [PENSTOCK, 'serve', '--model', 'simulated', '--port', str(port),
                               '--speedup', speedup], port, '/ready')


def nginx(upstream, work):
    port = free_port()
    config = os.path.join(work, 'nginx.conf')
    with open(config, 'w') as out:
        out.write(NGINX_CONFIG.format(work=work, upstream=upstream, port=port))
    return Server('nginx', ['nginx', '-c', config, '-p', work], port, '/health')


def measure(target, arguments, seconds, seed):
    """Loads `target`, and returns what its process spent on it."""
    load(target, *arguments, '--seed', seed, '--duration-s', max(1, seconds / 5))  # warms up
    before, began = target.cpu_s(), time.monotonic()
    report = load(target, *arguments, '--seed', seed + 1000, '--duration-s', seconds)
    spent, took = target.cpu_s() - before, time.monotonic() - began
    requests, tokens = report['requests']['ok'], report['tokens']['output']
    latency = report['latency_ms']
    return {'requests_per_s': requests / report['window_s'],
            'tokens_per_s': tokens / report['window_s'],
            'cpu_ms_per_request': spent / requests * 1e3,
            'cpu_us_per_token': spent / tokens * 1e6,
            'cores': spent / took,
            'ttft_p50_ms': latency['ttft']['p50'], 'ttft_p99_ms': latency['ttft']['p99'],
            'itl_p50_ms': latency['itl']['p50'], 'e2e_p50_ms': latency['e2e']['p50'],
            'resident_mib': target.resident_mib()}


class Client:
    """One kept-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)

    def get(self, path):
        self.connection.request('GET', path)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def chat(self, messages, max_tokens):
        body = json.dumps({'model': 'simulated', 'messages': messages, 'max_tokens': max_tokens})
        self.connection.request('POST', '/v1/chat/completions', body,
                                {'Content-Type': 'application/json'})
        answer = self.connection.getresponse()
        document = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f'penstock answered {answer.status}: {document}')
        return document


def words(count, seed):
    """Text that is not repeated: no cache may know it."""
    generator = random.Random(seed)
    return ' '.join(f'{generator.choice(WORDS)}{generator.randrange(1000)}' for _ in range(count))


WORDS = ('river valve water turbine gate pressure channel spill reservoir intake flow head pipe '
         'basin wheel pump level meter dam lake').split()


def conversation(server, seed):
    """CPU of the first turn of a conversation of 240 kB, and of the turns that carry it on, ms."""
    client = Client(server.port)
    messages, size, number = [], 0, 0
    while size < 240_000:
        role = 'assistant' if number % 2 else 'user'
        messages.append({'role': role, 'content': words(400, seed * 1000 + number)})
        size += len(messages[-1]['content'])
        number += 1
    if number % 2 == 0:
        messages.pop()
    before = server.cpu_s()
    answer = client.chat(messages, 16)
    first = server.cpu_s() - before
    prompt_tokens = answer['usage']['prompt_tokens']
    before = server.cpu_s()
    for turn in range(TURNS):
        messages.append({'role': 'assistant',
                         'content': answer['choices'][0]['message']['content']})
        messages.append({'role': 'user', 'content': words(20, seed * 1000 + 500 + turn)})
        answer = client.chat(messages, 16)
    following = (server.cpu_s() - before) / TURNS
    details = answer['usage']['prompt_tokens_details']
    return {'prompt_tokens': prompt_tokens, 'first_ms': first * 1e3, 'next_ms': following * 1e3,
            'cached': details['cached_tokens'] / answer['usage']['prompt_tokens']}


def round_trips(server, count=2000):
    """Median of GET /health on one kept-alive connection, ms: the floor of any answer here."""
    client = Client(server.port)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        client.get('/health')
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def send_floor(work, seconds):
    """CPU microseconds of one bare send() a client each 10 ms, or None without a compiler."""
    compiler, floor = shutil.which('c++'), os.path.join(work, 'send_floor')
    if compiler is None:
        say('no C++ compiler: the floor of a streamed token stays unknown')
        return None
    if not os.path.exists(floor):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'send_floor.cc')
        subprocess.run([compiler, '-O2', '-std=c++20', '-o', floor, source], check=True)
    got = subprocess.run([floor, '64', '10', '220', str(seconds)], check=True,
                         capture_output=True, text=True)
    return float(got.stdout)


def start_times(rounds):
    listen, resident = [], []
    for _ in range(rounds):
        with penstock('max') as server:
            listen.append(server.listen_s * 1e3)
            resident.append(server.resident_mib())
    return listen, resident


def growth(seconds, rounds):
    """Resident memory after each of several bursts of distinct 240 kB prompts, MiB: as the last
    answer ends, and when the server has been idle for two seconds."""
    loaded, rested = [], []
    with penstock('max') as server:
        for seed in range(rounds):
            load(server, '--concurrency', 16, '--prompt-bytes', 240_000, '--max-tokens', 4,
                 '--seed', 77 + seed, '--duration-s', seconds)
            loaded.append(server.resident_mib())
            time.sleep(2)
            rested.append(server.resident_mib())
    return loaded, rested


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=5, help='of each point')
    parser.add_argument('--points', default=','.join(POINTS))
    parser.add_argument('--json', help='write every figure to this file')
    options = parser.parse_args()
    points = options.points.split(',')
    everything = {'points': [], 'send_floor_us': []}

    with tempfile.TemporaryDirectory() as work:
        rows, floors = [], []
        with_nginx = shutil.which('nginx') is not None
        if not with_nginx:
            say('nginx is not installed: its columns stay empty')
        for name in points:
            pace, arguments = POINTS[name]
            runs = {'penstock': [], 'nginx': []}
            for round_number in range(options.rounds):
                if name == PACED and (floor := send_floor(work, options.seconds)) is not None:
                    floors.append(floor)
                    everything['send_floor_us'].append(floor)
                with penstock(pace) as server:
                    runs['penstock'].append(
                        measure(server, arguments, options.seconds, round_number))
                    if with_nginx:
                        with nginx(server.port, work) as proxy:
                            runs['nginx'].append(
                                measure(proxy, arguments, options.seconds, round_number))
                for who, got in runs.items():
                    if got:
                        say(f'{name}, round {round_number + 1}: {who} '
                            f'{got[-1]["requests_per_s"]:.0f} requests/s, '
                            f'{got[-1]["cpu_ms_per_request"]:.3f} ms CPU a request')
                        everything['points'].append({'point': name, 'server': who, **got[-1]})
            ours, proxy = runs['penstock'], runs['nginx']
            of = lambda got, key, digits: span([run[key] for run in got], digits) if got else '-'
            known = lambda key, digits: (of(ours, key, digits)
                                         if ours[0][key] is not None else '-')
            rows.append([name, of(ours, 'requests_per_s', 0), of(ours, 'tokens_per_s', 0),
                         of(ours, 'cpu_ms_per_request', 3), of(proxy, 'cpu_ms_per_request', 3),
                         of(ours, 'cpu_us_per_token', 2), of(proxy, 'cpu_us_per_token', 2),
                         known('ttft_p50_ms', 2), known('ttft_p99_ms', 2), known('itl_p50_ms', 2),
                         of(ours, 'e2e_p50_ms', 2), of(ours, 'resident_mib', 0)])

        print(f'\n{machine()}; clients on the same cores; {options.rounds} rounds of '
              f'{options.seconds:g} s (min–max)\n')
        print(table(['point', 'requests/s', 'tokens/s', 'CPU ms/request', 'nginx alone',
                     'CPU µs/token', 'nginx alone', 'TTFT p50 ms', 'TTFT p99', 'ITL p50',
                     'e2e p50', 'RSS MiB'], rows))

        if floors:
            print(f'\na bare send() to each of 64 clients every 10 ms: {span(floors, 2)} µs CPU, '
                  f'the floor of "{PACED}" (goal 10)')

    turns = []
    with penstock('max') as server:
        floor = round_trips(server)
        for seed in range(options.rounds):
            turns.append(conversation(server, seed))
    listen, idle = start_times(max(5, options.rounds))
    loaded, rested = growth(options.seconds, 4)
    everything.update(turns=turns, health_ms=floor, listen_ms=listen, idle_mib=idle,
                      loaded_mib=loaded, rested_mib=rested)
    print(f'''
240 kB conversation, {turns[0]['prompt_tokens']} tokens: first turn \
{span([t['first_ms'] for t in turns], 1)} ms CPU, each next turn \
{span([t['next_ms'] for t in turns], 2)} ms CPU (goal 1.5), \
{100 * min(t['cached'] for t in turns):.1f} % of its tokens cached
one client: GET /health takes {floor:.3f} ms (from Python), the floor of any answer
start to listening: {span(listen)} ms (goal 50)
resident: idle {span(idle)} MiB; after each {options.seconds:g} s of distinct 240 kB prompts, \
16 at once: {', '.join(f'{m:.0f}' for m in loaded)} MiB, and two seconds later \
{', '.join(f'{m:.0f}' for m in rested)} MiB (goal 60, flat)''')
    if options.json:
        with open(options.json, 'w') as out:
            json.dump(everything, out, indent=1)


if __name__ == '__main__':
    main()
