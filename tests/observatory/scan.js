// MDN's HTTP Observatory on this machine: node scan.js NAME HTTP_PORT HTTPS_PORT. Prints its verdict as JSON.
import { Socket } from "node:net";
import { scan } from "@mdn/mdn-http-observatory";

const [name, http, https] = process.argv.slice(2);
// It only knows names in DNS and the usual ports.
const ports = { 80: http, 443: https };
const connect = Socket.prototype.connect;
Socket.prototype.connect = function (...words) {
  const [options] = Array.isArray(words[0]) ? words[0] : words;
  if (options.host !== name) throw new Error(`Not ours: ${options.host}`);
  options.host = "127.0.0.1";
  options.port = ports[options.port] ?? options.port;
  return connect.apply(this, words);
};
console.log(JSON.stringify(await scan(name)));
