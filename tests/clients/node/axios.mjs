// Calls an origin with axios, which calls a proxy by itself, knowing nothing of any gateway.
//
// usage: node axios.mjs URL

import axios from "axios";

const answer = await axios.get(process.argv[2]);
console.log(answer.status, answer.data);
process.exit(0);
