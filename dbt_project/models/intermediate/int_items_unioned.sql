with unioned as (
    select * from {{ ref('stg_canonical__items') }}
    union all by name
    select * from {{ ref('stg_online_retail__items') }}
    union all by name
    select * from {{ ref('stg_stackexchange__items') }}
    union all by name
    select * from {{ ref('stg_amazon_reviews__items') }}
    union all by name
    select * from {{ ref('stg_complete_journey__items') }}
)

select
    * exclude (reason),
    coalesce(reason, case when item_id is null then 'missing_item' end) as reason
from unioned
