import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WaitingRoom } from '../../../src/http/admission/waiting-room.js';

const stays = () => {};

/** A room with no place to go to, until some are given. */
function fullRoom(room: number) {
  let places = 0;
  const waitingRoom = new WaitingRoom(room, () => places > 0);
  const told: string[] = [];
  const wait = (client: string, name: string, onGone: (callback: () => void) => void = stays) =>
    waitingRoom.wait(client, onGone).then((mayEnter) => {
      if (mayEnter) places--;
      told.push(`${name} ${mayEnter ? 'enters' : 'goes'}`);
    });
  const give = async () => {
    places++;
    waitingRoom.admitNext();
    await null;
    await null;
  };
  return { waitingRoom, told, wait, give };
}

test('places go to clients in turn, and to the first of each line', async () => {
  const { waitingRoom, told, wait, give } = fullRoom(8);
  for (const name of ['a1', 'a2', 'a3', 'b1']) wait(name[0] as string, name);
  for (let k = 0; k < 4; k++) await give();
  assert.deepEqual(told, ['a1 enters', 'b1 enters', 'a2 enters', 'a3 enters']);
  assert.equal(waitingRoom.waiting, 0);
  assert.equal(waitingRoom.mustWait('a'), true, 'the places are taken');
});

test('where too many wait the last of the longest line goes', async () => {
  const { told, wait } = fullRoom(3);
  for (const name of ['b1', 'a1', 'a2']) wait(name[0] as string, name);
  const last = wait('b', 'b2');
  await null;
  await null;
  assert.deepEqual(told, ['a2 goes']);
  void last;
});

test('whose body is here is ahead of the others of its client', async () => {
  const { waitingRoom, told, wait, give } = fullRoom(8);
  wait('a', 'a1');
  waitingRoom.wait('a', stays, true).then(() => told.push('body'));
  await give();
  assert.deepEqual(told, ['body']);
});

test('nobody overtakes others of its client, and who has left is passed over', async () => {
  const { waitingRoom, told, wait, give } = fullRoom(8);
  let leave = () => {};
  wait('a', 'a1', (callback) => {
    leave = callback;
  });
  wait('a', 'a2');
  leave();
  await give();
  assert.deepEqual(told, ['a1 goes', 'a2 enters']);
  assert.equal(waitingRoom.waiting, 0);
});

test('who has waited for a moment may try: the refusal says what stands against it', async () => {
  const { told, wait } = fullRoom(8);
  await wait('a', 'a1');
  assert.deepEqual(told, ['a1 enters']);
});

test('under lasting overload no more wait than are expected to enter soon', async () => {
  let [now, places] = [0, 0];
  const waitingRoom = new WaitingRoom(
    1000,
    () => places > 0,
    () => now,
  );
  const wait = (client: string) =>
    waitingRoom.wait(client, stays).then((mayEnter) => {
      if (mayEnter) places--;
    });
  const enters = async () => {
    now += 50;
    places++;
    waitingRoom.admitNext();
    await null;
    await null;
  };
  // A burst: nobody knows yet how fast it is.
  for (let k = 0; k < 40; k++) wait('a');
  assert.equal(waitingRoom.isFull('a'), false);
  for (let k = 0; k < 32; k++) await enters();
  assert.equal(waitingRoom.waiting, 8);
  assert.equal(waitingRoom.isFull('a'), false, 'the ninth is to enter after 9 x 50 ms');
  wait('a');
  wait('a');
  assert.equal(waitingRoom.isFull('a'), true, 'the eleventh would after 550 ms');
  assert.equal(await waitingRoom.wait('a', stays), false);
  assert.equal(waitingRoom.isFull('b'), false, 'another client has its own turn');
  now += 20_000;
  assert.equal(waitingRoom.isFull('b'), true, 'nobody has entered for a long time');
});
