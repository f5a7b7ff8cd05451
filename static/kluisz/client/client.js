/**
 * The analytics and credits API for browsers: an ES module without dependencies, typed by client.d.ts.
 *
 *     const kluisz = createClient({ token });
 *     const series = await kluisz.timeSeries({ granularity: "day", tenant_id: [a, b] });
 *
 * Amounts of money and credits are exact decimal text, as the server sends them. What goes wrong is thrown as a KluiszError.
 */

const ANALYTICS = "/api/v2/analytics/";
const CREDITS = "/api/v2/credits/";

/** What the server refused, or that it could not be reached (status 0). */
export class KluiszError extends Error {
  constructor(message, status, errors = []) {
    super(message);
    this.name = "KluiszError";
    this.status = status;
    this.errors = errors;
  }
}

/** A client of the server at `baseUrl` (by default the page's own), with a bearer `token`, or with the page's session. */
export function createClient({ baseUrl = "", token, fetch = globalThis.fetch } = {}) {
  async function get(path, params = {}, { signal } = {}) {
    const headers = { Accept: "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(`${baseUrl}${path}${queryOf(params)}`, { headers, signal, credentials: token ? "omit" : "same-origin" });
    } catch (error) {
      if (error?.name === "AbortError") throw error;
      throw new KluiszError("The server could not be reached.", 0);
    }
    if (!response.ok) throw await refusalOf(response);
    return response.json();
  }
  const analytics = (path) => (params, options) => get(ANALYTICS + path, params, options);
  const part = encodeURIComponent;
  return {
    platformStats: analytics("platform/stats"),
    tenantStats: (tenantId, params, options) => get(`${ANALYTICS}tenant/${part(tenantId)}/stats`, params, options),
    userStats: (userId = "me", params, options) => get(`${ANALYTICS}user/${part(userId)}/stats`, params, options),
    timeSeries: analytics("time-series"),
    topUsers: analytics("top-users"),
    topFlows: analytics("top-flows"),
    topTenants: analytics("top-tenants"),
    costBreakdown: analytics("cost-breakdown"),
    anomalies: analytics("anomalies"),
    sources: analytics("sources"),
    unknownNames: analytics("unknown-names"),
    traces: analytics("traces"),
    trace: (traceId, options) => get(`${ANALYTICS}traces/${part(traceId)}`, {}, options),
    creditStatus: (userId, options) => get(`${CREDITS}${userId ? `${part(userId)}/` : ""}status`, {}, options),
    creditEstimate: (flowId, options) => get(`${CREDITS}estimate`, { flow_id: flowId }, options),
  };
}

/** The parameters as a query; a list is its name repeated, what is undefined or null is left out. */
function queryOf(params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null) query.append(name, one instanceof Date ? one.toISOString() : String(one));
    }
  }
  const text = query.toString();
  return text ? `?${text}` : "";
}

async function refusalOf(response) {
  const body = await response.json().catch(() => ({}));
  const errors = body.errors ?? [];
  const message = errors.map((one) => (one.attr ? `${one.attr}: ${one.detail}` : one.detail)).join(" ");
  return new KluiszError(message || `The server answered ${response.status}.`, response.status, errors);
}
