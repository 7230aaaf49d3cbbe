// Calls an https origin with Node's own fetch, knowing nothing of any gateway: the environment says it all.
//
// usage: node unchanged.mjs BASE COUNT

const [base, count] = process.argv.slice(2);

async function check(what, answer, wanted) {
  const got = await answer.text();
  if (answer.status !== 200 || got !== wanted) {
    console.error(`${what}: ${answer.status}, got ${got.slice(0, 80)}, wanted ${wanted.slice(0, 80)}`);
    process.exit(1);
  }
}

const paths = Array.from({ length: Number(count) }, (_, n) => `/node/${n}?q=%20`);
const answers = await Promise.all(paths.map((path) => fetch(base + path)));
for (const [n, path] of paths.entries()) await check("GET", answers[n], path);
for (const body of ["x", "y".repeat(200_000)]) {
  await check("POST", await fetch(`${base}/post`, { method: "POST", body }), body);
}
console.log("well");
process.exit(0);
