/** What API nodes and workers call things in the store, and what a job of the queue carries. */
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import { packageVersion } from '../version.js';

/** Begins all keys of the store. */
export const PREFIX = 'loragrad';

/**
 * Nodes of another version or with another build of the kernels have a queue of their own: their answers would not be
 * the same bit by bit.
 */
export function queueName(kernels: KernelBuild): string {
  return `parts-${packageVersion()}-${kernels}`;
}

export const blobKey = (digest: string, chunk: number) => `${PREFIX}:blob:${digest}:${chunk}`;
/** A tensor of PUT /tensors, the list of those of its owner, and the bytes of all of these. */
export const tensorKey = (owner: string, name: string) => `${PREFIX}:tensor:${owner}:${name}`;
export const tensorsKey = (owner: string) => `${PREFIX}:tensor-list:${owner}`;
export const tensorBytesKey = (owner: string) => `${PREFIX}:tensor-bytes:${owner}`;
/** Tensors that nodes are to forget are published here. */
export const FORGET_CHANNEL = `${PREFIX}:forget`;
/** What a job of Prefer: respond-async has come to. */
export const jobKey = (owner: string, id: string) => `${PREFIX}:job:${owner}:${id}`;
/** Jobs that their nodes are to forget are published here. */
export const FORGET_JOB_CHANNEL = `${PREFIX}:forget-job`;
/** Large values travel in chunks of this size, so that other commands, such as those that cancel, do not wait long. */
export const CHUNK_BYTES = 2 ** 22;
/** Exists as long as the API node does. */
export const aliveKey = (node: string) => `${PREFIX}:alive:${node}`;
/** Names of requests that were given up are published here. */
export const CANCEL_CHANNEL = `${PREFIX}:cancel`;
/** The same for workers that take a part of one later. */
export const cancelledKey = (request: string) => `${PREFIX}:cancelled:${request}`;

/** BullMQ keeps jobs, results and events as text: only names go into them. */
export interface PartData {
  readonly request: string;
  /** The API node that waits for it. */
  readonly node: string;
  /** The blob that describes the task. */
  readonly task: BlobName;
}

export interface PartResult {
  /** The blob that describes the result. */
  readonly result: BlobName;
}

export interface BlobName {
  readonly digest: string;
  readonly bytes: number;
}

/** Some of its bytes. */
export interface BlobPart extends BlobName {
  readonly at: number;
  readonly length: number;
}

/** Why a part failed that has to be sent again with all its tensors: the store has lost one. */
export const MISSING = 'A tensor is not in the store any more';
/** Why a part was not done: the request was given up, or the store has lost the sign of its node. */
export const UNWANTED = 'Nobody waits for it any more';
