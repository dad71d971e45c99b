/**
 * Waiting tasks, job by job in turn: a small job never waits for the whole of a large one.
 */
export class FairQueue<Owner, Item> {
  #turns: { readonly owner: Owner; readonly items: Item[]; next: number }[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  add(owner: Owner, items: readonly Item[]): void {
    if (items.length === 0) return;
    this.#turns.push({ owner, items: [...items], next: 0 });
    this.#length += items.length;
  }

  /** The next item of the owner whose turn it is; that owner then goes to the end of the line. */
  take(): { readonly owner: Owner; readonly item: Item } | null {
    const turn = this.#turns.shift();
    if (!turn) return null;
    const item = turn.items[turn.next] as Item;
    turn.next++;
    this.#length--;
    if (turn.next < turn.items.length) this.#turns.push(turn);
    return { owner: turn.owner, item };
  }

  /** Forget what an owner still has waiting. */
  drop(owner: Owner): void {
    this.#turns = this.#turns.filter((turn) => {
      if (turn.owner === owner) this.#length -= turn.items.length - turn.next;
      return turn.owner !== owner;
    });
  }
}
