import type { components, operations } from "./schema";

type Answer<Name extends keyof operations> = operations[Name] extends {
  responses: { 200: { content: { "application/json": infer Body } } };
}
  ? Body
  : never;
type Query<Name extends keyof operations> = operations[Name] extends { parameters: { query?: infer Params } } ? NonNullable<Params> : never;

export interface RequestOptions {
  signal?: AbortSignal;
}

export interface ClientOptions {
  /** Where the server is; by default the page's own. */
  baseUrl?: string;
  /** A bearer token; without one the page's session is used. */
  token?: string;
  fetch?: typeof globalThis.fetch;
}

export interface ErrorDetail {
  code: string;
  detail: string;
  attr: string | null;
}

export declare class KluiszError extends Error {
  constructor(message: string, status: number, errors?: ErrorDetail[]);
  /** The HTTP status; 0 when the server could not be reached. */
  status: number;
  errors: ErrorDetail[];
}

export type PlatformStats = Answer<"platform_stats">;
export type TenantStats = Answer<"tenant_stats">;
export type UserStats = Answer<"user_stats">;
export type TimeSeries = Answer<"time_series">;
export type TopUsers = Answer<"top_users">;
export type TopFlows = Answer<"top_flows">;
export type TopTenants = Answer<"top_tenants">;
export type CostBreakdown = Answer<"cost_breakdown">;
export type Anomalies = Answer<"anomalies">;
export type Sources = Answer<"sources">;
export type UnknownNames = Answer<"unknown_names">;
export type Traces = Answer<"traces">;
export type Trace = Answer<"trace">;
export type CreditStatus = components["schemas"]["CreditStatusAnswer"];
export type CreditEstimate = components["schemas"]["EstimateAnswer"];

export interface KluiszClient {
  platformStats(params?: Query<"platform_stats">, options?: RequestOptions): Promise<PlatformStats>;
  tenantStats(tenantId: string, params?: Query<"tenant_stats">, options?: RequestOptions): Promise<TenantStats>;
  /** Of a user, by default the caller. */
  userStats(userId?: string, params?: Query<"user_stats">, options?: RequestOptions): Promise<UserStats>;
  timeSeries(params?: Query<"time_series">, options?: RequestOptions): Promise<TimeSeries>;
  topUsers(params?: Query<"top_users">, options?: RequestOptions): Promise<TopUsers>;
  topFlows(params?: Query<"top_flows">, options?: RequestOptions): Promise<TopFlows>;
  topTenants(params?: Query<"top_tenants">, options?: RequestOptions): Promise<TopTenants>;
  costBreakdown(params?: Query<"cost_breakdown">, options?: RequestOptions): Promise<CostBreakdown>;
  anomalies(params?: Query<"anomalies">, options?: RequestOptions): Promise<Anomalies>;
  sources(params?: Query<"sources">, options?: RequestOptions): Promise<Sources>;
  unknownNames(params?: Query<"unknown_names">, options?: RequestOptions): Promise<UnknownNames>;
  traces(params?: Query<"traces">, options?: RequestOptions): Promise<Traces>;
  trace(traceId: string, options?: RequestOptions): Promise<Trace>;
  /** Of a user, by default the caller. */
  creditStatus(userId?: string, options?: RequestOptions): Promise<CreditStatus>;
  creditEstimate(flowId: string, options?: RequestOptions): Promise<CreditEstimate>;
}

export declare function createClient(options?: ClientOptions): KluiszClient;
export type { Query };
