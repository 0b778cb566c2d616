// sqs-consumer (Node), as in sqs_consumer.mjs; a failure comes back by `terminateVisibilityTimeout` with a function, "if
// you would like to use exponential backoff". It has no rate and no idempotency.
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const env = process.env;
const seconds = (name) => Number(env[name]);
const receives = (message) => Number(message.Attributes.ApproximateReceiveCount);

function call(n) {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(env.CHAOS_DOWNSTREAM), "127.0.0.1", () => socket.write(`${n}\n`));
    let answer = "";
    socket.setTimeout(5000, () => socket.destroy(new Error("no answer")));
    socket.on("data", (data) => (answer += data));
    socket.on("error", reject);
    socket.on("close", () => (answer === "ok\n" ? resolve() : reject(new Error(answer.trim() || "no answer"))));
  });
}

async function handle(message) {
  const { n, ms } = JSON.parse(message.Body).payload;
  await sleep(ms);
  await call(n);
  await sleep(1000 * Number(env.CHAOS_AFTER_SECONDS || 0));
  return message;
}

const sqs = new SQSClient({
  endpoint: env.CHAOS_ENDPOINT,
  useQueueUrlAsEndpoint: false,
  requestHandler: {
    httpAgent: { keepAlive: true, maxSockets: 3 * Number(env.CHAOS_CONCURRENCY) },
    connectionTimeout: 5000,
    requestTimeout: 1000 * (seconds("CHAOS_WAIT_SECONDS") + 10),
    throwOnRequestTimeout: true,
  },
});
const count = Math.ceil(Number(env.CHAOS_CONCURRENCY) / 10);
let running = count;
for (let number = 0; number < count; number++) {
  const consumer = Consumer.create({
    queueUrl: env.CHAOS_QUEUE_URL,
    sqs,
    batchSize: 10,
    waitTimeSeconds: seconds("CHAOS_WAIT_SECONDS"),
    visibilityTimeout: seconds("CHAOS_VISIBILITY_SECONDS"),
    heartbeatInterval: seconds("CHAOS_VISIBILITY_SECONDS") / 3,
    terminateVisibilityTimeout: ([message]) => Math.min(300, 2 ** receives(message)),
    pollingCompleteWaitTimeMs: 1000 * (seconds("CHAOS_DRAIN_SECONDS") + 5),
    messageSystemAttributeNames: ["ApproximateReceiveCount"],
    handleMessage: handle,
  });
  for (const kind of ["error", "processing_error", "timeout_error"]) consumer.on(kind, () => {});
  consumer.once("stopped", () => --running || process.exit(0));
  process.on("SIGTERM", () => consumer.stop());
  consumer.start();
}
console.log('{"event": "worker.ready"}');
