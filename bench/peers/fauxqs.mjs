// fauxqs on 127.0.0.1 and a free port, which its own command does not offer; queue URLs begin with the host asked.
import { buildApp } from "fauxqs";
import { SqsStore } from "./node_modules/fauxqs/dist/sqs/sqsStore.js";

const sqsStore = new SqsStore();
sqsStore.host = "";
const app = buildApp({ logger: false, stores: { sqsStore } });
console.log(await app.listen({ port: 0, host: "127.0.0.1" }));
