/**
 * The chat page, at `/`.
 * @module
 */
import { embeddedBytes } from "../embedded_bytes.ts";
import { pageFiles } from "./page_files.ts";

/** Addresses of the page's files. */
export const PAGE_PATHS = {
  "/": "index.html",
  "/page.css": "page.css",
  "/page.js": "page.js",
} as const;

const TYPES = { html: "text/html", css: "text/css", js: "text/javascript" } as const;

/** Nothing but its own files, and no addresses but the server's. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** A file of the page. @param path Its address. @returns The response. */
export function pageFile(path: keyof typeof PAGE_PATHS): Response {
  const name = PAGE_PATHS[path];
  const type = TYPES[name.split(".")[1] as keyof typeof TYPES];
  return new Response(embeddedBytes(pageFiles[name]), {
    headers: {
      "content-type": `${type}; charset=utf-8`,
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
    },
  });
}
