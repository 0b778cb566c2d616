// sqs-consumer (Node), handleMessageBatch with ten a batch: ten deletes travel in one call. One Consumer awaits its
// batch before it polls again, so its maintainers' advice for more at once is several consumers in one process
// (github.com/bbc/sqs-consumer, issues 61 and 96): concurrency / 10 of them, on one client that keeps as many sockets.
import dgram from "node:dgram";
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const MILLISECONDS = 20;
const { BENCH_QUEUE_URL, BENCH_ENDPOINT, BENCH_CONCURRENCY, BENCH_TOTAL, BENCH_MARKS, BENCH_STARTS } = process.env;
const total = Number(BENCH_TOTAL);
const consumers = Math.ceil(Number(BENCH_CONCURRENCY) / 10);
const marks = dgram.createSocket("udp4").unref();
const starts = [];
let started = 0;
let ended = 0;

// The same clock as Python's time.monotonic().
const now = () => Number(process.hrtime.bigint()) / 1e9;
const tell = (mark) => marks.send(mark, Number(BENCH_MARKS), "127.0.0.1");

function start(number) {
  if (BENCH_STARTS) starts.push([number, now()]);
  if (++started === 1) tell("first");
}

function end() {
  if (++ended === 1000) tell("thousandth");
  if (ended === total) {
    if (BENCH_STARTS) writeFileSync(BENCH_STARTS, JSON.stringify(starts));
    tell("last");
  }
}

async function handle(message) {
  const { payload } = JSON.parse(message.Body);
  start(payload.n);
  await sleep(MILLISECONDS);
  end();
}

const agent = { keepAlive: true, maxSockets: 2 * consumers };
const sqs = new SQSClient({
  endpoint: BENCH_ENDPOINT,
  requestHandler: { httpAgent: agent, httpsAgent: agent },
});
for (let index = 0; index < consumers; index++) {
  const consumer = Consumer.create({
    queueUrl: BENCH_QUEUE_URL,
    sqs,
    batchSize: 10,
    waitTimeSeconds: 20,
    handleMessageBatch: async (messages) => {
      await Promise.all(messages.map(handle));
      return messages;
    },
  });
  consumer.on("error", (error) => console.error(error.message));
  consumer.start();
}
