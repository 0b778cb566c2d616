// sqs-consumer (Node). Its README: visibilityTimeout with heartbeatInterval (below it: a third here) for work that can
// outlast it, terminateVisibilityTimeout so that a failure comes back soon, pollingCompleteWaitTimeMs and
// consumer.stop() at SIGTERM for a graceful end, handleMessage's return value acknowledges. handleMessage and not
// handleMessageBatch, so that one failure concerns one message and each has a heartbeat of its own. One Consumer awaits
// its ten messages before it polls again; its maintainers' advice for more at once is several consumers in a process.
// authenticationErrorTimeout (10 s by default) is 1 s, as everybody's pause here. The AWS SDK's own request
// time-out is off by default, so it is given here, with the SDK's three attempts. A rejection fails until the queue's
// redrive policy has it, as its README says.
import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const env = process.env;
const seconds = (name) => Number(env[name]);
const count = Math.ceil(Number(env.CHAOS_CONCURRENCY) / 10);
const ledger = openSync(env.CHAOS_LEDGER, "a");

// The clock of chaos/moment.py; hrtime stands still in a sleep of the machine, which that one counts.
const now = () => Number(process.hrtime.bigint()) / 1e9 + Number(env.CHAOS_CLOCK_AHEAD);
const write = (n, what) => writeSync(ledger, `${n} 0 ${what} ${env.CHAOS_WORKER} ${now().toFixed(4)}\n`);

// The verdicts come with the message: of its first attempt, and of all others.
async function handle(message) {
  const { n, ms, verdicts } = JSON.parse(message.Body).payload;
  write(n, "start");
  await sleep(ms);
  const attempt = Number(message.Attributes.ApproximateReceiveCount);
  const verdict = verdicts[Math.min(attempt, verdicts.length) - 1];
  write(n, verdict === "reject" ? "fail" : verdict);
  if (["fail", "retry", "reject"].includes(verdict)) throw new Error(verdict);
  return message;
}

const agent = { keepAlive: true, maxSockets: 3 * Number(env.CHAOS_CONCURRENCY) };
const sqs = new SQSClient({
  endpoint: env.CHAOS_ENDPOINT,
  useQueueUrlAsEndpoint: false,
  requestHandler: {
    httpAgent: agent,
    connectionTimeout: 5000,
    requestTimeout: 1000 * (seconds("CHAOS_WAIT_SECONDS") + 10),
    throwOnRequestTimeout: true,
  },
});
const consumers = Array.from({ length: count }, () =>
  Consumer.create({
    queueUrl: env.CHAOS_QUEUE_URL,
    sqs,
    batchSize: 10,
    waitTimeSeconds: seconds("CHAOS_WAIT_SECONDS"),
    visibilityTimeout: seconds("CHAOS_VISIBILITY_SECONDS"),
    heartbeatInterval: seconds("CHAOS_VISIBILITY_SECONDS") / 3,
    terminateVisibilityTimeout: 1,
    authenticationErrorTimeout: 1000,
    pollingCompleteWaitTimeMs: 1000 * (seconds("CHAOS_DRAIN_SECONDS") + 5),
    messageSystemAttributeNames: ["ApproximateReceiveCount"],
    handleMessage: handle,
  }),
);
let running = consumers.length;
for (const consumer of consumers) {
  for (const kind of ["error", "processing_error", "timeout_error"]) {
    consumer.on(kind, (error) => console.error(kind, error.message));
  }
  consumer.once("stopped", () => {
    if (--running === 0) process.exit(0);
  });
  consumer.start();
}
process.on("SIGTERM", () => consumers.forEach((consumer) => consumer.stop()));
console.log('{"event": "worker.ready"}');
