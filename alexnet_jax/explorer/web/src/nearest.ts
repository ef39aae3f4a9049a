/** The training images nearest to an image, by what a layer makes of them. */

export interface Neighbour {
  index: number;
  distance: number; // Euclidean
}

/** The `count` rows of `vectors` [images, query.length] nearest to `query`, nearest first. */
export function nearest(query: Float32Array, vectors: Float32Array, count: number): Neighbour[] {
  const features = query.length;
  return Array.from({ length: vectors.length / features }, (_, index) => {
    let sum = 0;
    for (let i = 0, at = index * features; i < features; i++, at++) sum += (vectors[at] - query[i]) ** 2;
    return { index, distance: Math.sqrt(sum) };
  })
    .sort((a, b) => a.distance - b.distance)
    .slice(0, count);
}
