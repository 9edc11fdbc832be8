// A client as its users write it: MQTT.js with its default options. What happens to it goes to standard output, one JSON object
// a line; the line "drop" on standard input cuts its connection as a failing network would.
//
//   node mqttjs_client.js PORT CLIENT_ID TOPIC [MORE_OPTIONS [once]]
//
// With `once`, it prints its first message as `received PAYLOAD`, disconnects, and ends.

const mqtt = require("mqtt");

const [port, clientId, topic, more, once] = process.argv.slice(2);
const tell = (event, fields) => console.log(JSON.stringify({ event, ...fields }));

// Another URL, for one that speaks WebSocket; PORT stands in it where its port belongs.
const { url = "mqtt://127.0.0.1:PORT", ...options } = JSON.parse(more ?? "{}");
const client = mqtt.connect(url.replace("PORT", port), { clientId, ...options });

// Subscribed once, on the first connection: that it is subscribed again after a reconnect is the library's own doing.
client.once("connect", () => client.subscribe(topic, { qos: 1 }, (error) => tell("subscribed", { error: error?.message })));

client.on("connect", (connack) => tell("connect", { sessionPresent: connack.sessionPresent }));
client.on("message", (_, payload) => {
  tell("message", { payload: payload.toString() });
  if (once) client.end(false, () => process.exit(console.log(`received ${payload}`) ?? 0));
});
client.on("error", (error) => tell("error", { message: error.message, code: error.code }));
client.on("close", () => tell("close"));

process.stdin.on("data", (line) => {
  if (line.toString().trim() === "drop") client.stream.destroy();
});
