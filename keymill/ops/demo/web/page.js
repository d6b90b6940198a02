"use strict";

const video = document.getElementById("video");
const seen = { errors: [], events: [], licenseMs: null, stalenessS: null };
let player = null;
let session = null;

/** What a driver reads: plain values, no token. */
window.report = () => {
  const quality = video.getVideoPlaybackQuality();
  return {
    time: video.currentTime,
    frames: quality.totalVideoFrames,
    width: video.videoWidth,
    height: video.videoHeight,
    statuses: player ? player.getKeyStatuses() : {},
    ...seen,
  };
};

function show(id, text) {
  document.getElementById(id).textContent = text;
}

function setState(text, tone) {
  const state = document.getElementById("state");
  state.textContent = text;
  state.dataset.tone = tone;
}

/** Shaka's error as plain values; an address loses its query, which holds the token. */
function plain(error) {
  const data = (error.data || []).map((item) => {
    if (item instanceof shaka.util.Error) return plain(item);
    if (typeof item === "string") return /^https?:/.test(item) ? item.split("?")[0] : item;
    return item !== null && typeof item === "object" ? null : item;
  });
  return { code: error.code ?? 0, message: error.code ? "" : String(error), data };
}

function fail(error) {
  seen.errors.push(plain(error));
  setState(`Not playing: ${error.code ? "Shaka error " + error.code : error}`, "bad");
}

function dashed(kid) {
  return kid.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function showCoordinates(id, at) {
  if (!at) return;
  show(id, `offset ${at.offset}`);
  show(`${id}-where`, `${at.topic}/${at.partition}`);
}

function showSession() {
  show("asset", session.asset);
  show("scheme", session.scheme);
  show("attribution", session.attribution);
  showCoordinates("event", session.event);
  showCoordinates("record", session.record);
  for (const track of session.tracks) {
    const row = document.getElementById("tracks").insertRow();
    row.dataset.kid = track.kid;
    for (const text of [track.label, dashed(track.kid), "–"]) row.insertCell().textContent = text;
  }
}

function showProgress() {
  const now = window.report();
  for (const row of document.getElementById("tracks").rows) {
    const status = now.statuses[row.dataset.kid];
    row.cells[2].textContent = status || "–";
    row.cells[2].dataset.tone = status === "usable" ? "good" : "bad";
  }
  if (now.licenseMs !== null) {
    show("license", `${now.licenseMs.toFixed(0)} ms`);
    show("license-where", now.stalenessS === null ? "ClearKey" : `ClearKey, copy ${now.stalenessS} s old`);
  }
  if (now.frames > 0) {
    show("frames", `${now.frames} frames`);
    show("frames-where", `${now.width}×${now.height}, ${now.time.toFixed(1)} s`);
  }
  if (!now.errors.length && now.time > 0) setState(video.paused ? "Paused" : "Playing", "good");
}

/** Latency and staleness of the first license; the proxy names its staleness in a header that CORS exposes. */
function readLicense(type, response) {
  if (type !== shaka.net.NetworkingEngine.RequestType.LICENSE || seen.licenseMs !== null) return;
  seen.licenseMs = response.timeMs;
  const staleness = Number.parseFloat(response.headers["x-keymill-staleness"]);
  if (Number.isFinite(staleness)) seen.stalenessS = staleness;
}

async function start() {
  session = await (await fetch("session.json")).json();
  showSession();
  shaka.polyfill.installAll();
  player = new shaka.Player();
  await player.attach(video);
  player.addEventListener("error", (event) => fail(event.detail));
  player.getNetworkingEngine().registerResponseFilter(readLicense);
  player.configure({
    drm: { servers: { "org.w3.clearkey": session.license }, retryParameters: { maxAttempts: 1 } },
    abr: { defaultBandwidthEstimate: 20e6, useNetworkInformation: false }, // starts with HD
  });
  await player.load(session.manifest);
  video.loop = true;
  video.play().catch(() => {}); // not awaited: without a key it never settles
}

for (const name of ["playing", "waitingforkey", "ended"]) {
  video.addEventListener(name, () => seen.events.push([name, video.currentTime]));
}
setInterval(() => player && session && showProgress(), 200);
start().catch(fail);
